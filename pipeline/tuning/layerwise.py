"""The single-pass variant: every LayerNorm has keys of its own and selects the task itself (arXiv 2308.09610).

The timm model stays as it is but for its LayerNorm modules, which are swapped. A norm holds rows for T tasks, put in by
`functional_call` like any task's LayerNorms: `weight`, `bias`, `key` and, optionally, `attention`, [T, D] each.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import INFERENCE_BATCH, Backbone, LayerNorms
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.machine.device import fetch
from pipeline.machine.devices import part_of_images, put_together


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


def with_layerwise_norms(backbone: Backbone, names: Sequence[str], *, detach: bool) -> Backbone:
    """The backbone with every LayerNorm swapped of which `names` has a tensor; the given one is left alone.

    Raises UserError for a model without CLS token, which is what a LayerNorm selects by, and for a LayerNorm that the
    CLS token does not enter as one vector: of queries and keys (one a head), or of patches alone.
    """
    if getattr(backbone.model, "cls_token", None) is None:
        raise UserError("params.yaml: selection: layerwise needs a backbone with a CLS token: set selection: query")
    model = copy.deepcopy(backbone.model)
    for name in sorted({name.rpartition(".")[0] for name in names}):
        if name.endswith((".q_norm", ".k_norm")) or name.startswith("patch_embed."):
            raise UserError(
                f"params.yaml: selection: layerwise, but no CLS token enters the backbone's {name}: set selection: "
                "query, or tuned_norms: mlp"
            )
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.LayerNorm), f"{name} is no LayerNorm"
        model.set_submodule(name, LayerwiseNorm(norm, detach=detach))
    return replace(backbone, model=model)


def layerwise_norms(backbone: Backbone) -> dict[str, LayerwiseNorm]:
    """The swapped LayerNorms by name, in the order of the forward pass."""
    return {name: module for name, module in backbone.model.named_modules() if isinstance(module, LayerwiseNorm)}


def initial_keys(backbone: Backbone, images: Images, layernorms: Mapping[str, Tensor]) -> LayerNorms:
    """Keys [1, D] to begin with: in closed form from the CLS tokens of a task's images under these LayerNorms."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, norm in layerwise_norms(backbone).items():
        sums[f"{name}.key"] = torch.zeros_like(norm.key)

        def add(_: nn.Module, inputs: tuple[Tensor, ...], total: Tensor = sums[f"{name}.key"]) -> None:
            total += functional.normalize(class_token(inputs[0]), dim=1).sum(0)

        hooks.append(norm.register_forward_pre_hook(add))
    for _ in backbone.outputs(images, layernorms):
        pass
    for hook in hooks:
        hook.remove()
    return {name: functional.normalize(total, dim=1).cpu() for name, total in sums.items()}


def initial_attention(backbone: Backbone) -> LayerNorms:
    """Attention [1, D] to begin with: ones, which leave the CLS token as it is."""
    return {
        f"{name}.attention": torch.ones_like(norm.key, device="cpu") for name, norm in layerwise_norms(backbone).items()
    }


def similarity(backbone: Backbone) -> Tensor:
    """Mean over norms and images of the cosine to the only task's keys, in the batch just run: what training raises."""
    return torch.stack([norm.scores.mean() for norm in layerwise_norms(backbone).values()]).mean()


def encode_layerwise(backbone: Backbone, images: Images, bank: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features [N, D] of N images in one pass, and the task [N] that most of the norms chose.

    bank: [T, D] each; a single row forces its task.
    """
    chosen: list[Tensor] = []
    part = part_of_images(len(images), INFERENCE_BATCH)

    def outputs() -> Iterator[Tensor]:
        for output in backbone.outputs(images[part], bank):
            chosen.append(torch.stack([norm.chosen for norm in layerwise_norms(backbone).values()]).mode(0).values)
            yield output

    features = torch.cat([torch.empty(0, backbone.model.num_features), *fetch(outputs())])
    tasks = torch.cat([torch.empty(0, dtype=torch.int64), *fetch(chosen)])
    whole = [put_together(tensor, len(images), INFERENCE_BATCH) for tensor in (features, tasks)]
    return whole[0], whole[1]
