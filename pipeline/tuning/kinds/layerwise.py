"""`tuning: layerwise`: every LayerNorm has keys of its own and selects the task itself, in one pass.

The single-pass variant of arXiv 2308.09610. The timm model stays as it is but for its LayerNorm modules, which are
swapped. A norm holds rows for T tasks, put in by `functional_call` like any task's LayerNorms: `weight`, `bias`, `key`
and, optionally, `attention`, [T, D] each. Keys are trained together with the LayerNorms: the mean cosine of a task's
images to its keys is raised while the cross-entropy is lowered.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.tuning.kind import AnyModel, Kind, shared_copy
from pipeline.tuning.norms import NormOptions, norm_parameters


class Options(NormOptions):
    """Which LayerNorms select, and how."""

    attention: bool  # a learned vector per key, multiplied to the CLS token before the cosine
    detach: bool  # the selection loss sends no gradient into the features


class LayerwiseNorm(nn.Module):
    """LayerNorm whose scale and bias are those of the task chosen, for each image, from the CLS token entering it.

    An image's score for task t is cos(a_t * c, k_t), where c is the CLS token and a_t the learned attention (or 1).
    `scores` [B, T] and `chosen` [B] tell what the last batch got.
    """

    scores: Tensor
    chosen: Tensor

    def __init__(self, norm: nn.LayerNorm, *, detach: bool) -> None:
        """detach: the scores do not shape the features that they are computed from."""
        super().__init__()
        self.shape, self.eps, self.detach = norm.normalized_shape, norm.eps, detach
        self.weight = nn.Parameter(norm.weight.detach()[None], requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach()[None], requires_grad=False)
        self.key = nn.Parameter(torch.zeros_like(self.weight), requires_grad=False)
        self.attention = nn.Parameter(torch.ones_like(self.weight), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, N, D], or [B, D] behind the pooling, to the same shape."""
        token = class_token(inputs)
        seen = token.detach() if self.detach else token
        directions = functional.normalize(seen[:, None] * self.attention, dim=2)  # [B, T or 1, D]
        self.scores = (directions * functional.normalize(self.key, dim=1)).sum(2)
        self.chosen = self.scores.argmax(1)
        # Images of one task go together, so that each gets the very operation that its task's model performs.
        tasks = [0] if self.scores.shape[1] == 1 else self.chosen.unique().tolist()
        if len(tasks) == 1:
            return self._norm(inputs, tasks[0])
        outputs = torch.empty_like(inputs)
        for task in tasks:
            rows = (self.chosen == task).nonzero().flatten()
            outputs[rows] = self._norm(inputs[rows], task)
        return outputs

    def _norm(self, inputs: Tensor, task: int) -> Tensor:
        # A parameter that is not tuned has a single row, for all tasks.
        weight, bias = (tensor[task if len(tensor) > 1 else 0] for tensor in (self.weight, self.bias))
        return functional.layer_norm(inputs, self.shape, weight, bias, self.eps)


def class_token(inputs: Tensor) -> Tensor:
    """The CLS token [B, D] of what enters a LayerNorm."""
    return inputs[:, 0] if inputs.ndim == 3 else inputs


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model with every LayerNorm swapped that is tuned.

    Raises UserError for a model without CLS token, which is what a LayerNorm selects by, and for a LayerNorm that the
    CLS token does not enter as one vector: of queries and keys (one per head), or of patches alone.
    """
    if getattr(model, "cls_token", None) is None:
        raise UserError("params.yaml: tuning: layerwise needs a backbone with a CLS token: set tuning: layernorm")
    names = norm_parameters(model, options)
    model = shared_copy(model)
    for name in sorted({name.rpartition(".")[0] for name in names}):
        norm = model.get_submodule(name)
        if name.endswith((".q_norm", ".k_norm")) or name.startswith("patch_embed."):
            raise UserError(
                f"params.yaml: tuning: layerwise, but no CLS token enters the backbone's {name}: set tuning: "
                "layernorm, or layerwise.norms: mlp"
            )
        assert isinstance(norm, nn.LayerNorm), f"{name} is no LayerNorm"
        model.set_submodule(name, LayerwiseNorm(norm, detach=options.detach))
    return model


def layerwise_norms(model: nn.Module) -> dict[str, LayerwiseNorm]:
    """The swapped LayerNorms by name, in the order of the forward pass."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LayerwiseNorm)}


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """Scale and bias of the task before, or pretrained; keys in closed form; attention that changes nothing."""
    del generator
    values = {"scale": ("weight",), "bias": ("bias",), "both": ("weight", "bias")}[options.parameters]
    norms = layerwise_norms(backbone.model)
    names = [f"{norm}.{value}" for norm in norms for value in values]
    first = {name: tensor[0] for name, tensor in backbone.pretrained(names).items()}
    layernorms = {name: previous.get(name, tensor) for name, tensor in first.items()}
    attention = {f"{norm}.attention": torch.ones_like(layernorms[f"{norm}.{values[0]}"]) for norm in norms}
    return layernorms | initial_keys(backbone, images, layernorms) | (attention if options.attention else {})


def initial_keys(backbone: Backbone, images: Images, layernorms: Tuned) -> Tuned:
    """Keys [D] to begin with: in closed form from the CLS tokens of a task's images under these LayerNorms [D]."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, norm in layerwise_norms(backbone.model).items():
        sums[f"{name}.key"] = torch.zeros_like(norm.key)

        def add(_: nn.Module, inputs: tuple[Tensor, ...], total: Tensor = sums[f"{name}.key"]) -> None:
            total += functional.normalize(class_token(inputs[0]), dim=1).sum(0)

        hooks.append(norm.register_forward_pre_hook(add))
    for _ in backbone.outputs(images, {name: tensor[None] for name, tensor in layernorms.items()}):
        pass
    for hook in hooks:
        hook.remove()
    return {name: functional.normalize(total, dim=1)[0].cpu() for name, total in sums.items()}


def penalty(model: nn.Module) -> Tensor:
    """Minus the mean, over norms and images of the batch just run, of the cosine to the keys of the only task."""
    return -torch.stack([norm.scores.mean() for norm in layerwise_norms(model).values()]).mean()


def chosen(model: nn.Module) -> Tensor:
    """The task [B] that most of the norms chose for each image of the batch just run."""
    return torch.stack([norm.chosen for norm in layerwise_norms(model).values()]).mode(0).values


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Every LayerNorm selects by its own keys from the CLS token entering it, in a single pass. Layers may
        disagree; an image then runs under a mixture that no task was trained on.""",
    places=places,
    penalty=penalty,
    chosen=chosen,
)
