"""A learner as one module of tensor operations, which torch can turn into ONNX.

If a task is selected, the graph contains both passes: the frozen model gives the query, rows of the selector give the
task, and the second pass uses the LayerNorm rows of each image's own task.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pipeline.backbone.vectors import Vectors
from pipeline.backbone.vit import Backbone
from pipeline.errors import UserError
from pipeline.inference.selecting import SelectingEncoder
from pipeline.linear.head import Head, lengths
from pipeline.selection.selector import Rows
from pipeline.tuning.kind import shared_copy


class RowNorm(nn.Module):
    """A LayerNorm whose scale and bias differ from image to image: [B, D] each."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        """norm: the LayerNorm in whose place it is."""
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise [B, ..., D]."""
        between = [1] * (inputs.ndim - 2)
        weight, bias = (
            tensor.view(-1, *between, tensor.shape[-1]) if tensor.ndim == 2 else tensor
            for tensor in (self.weight, self.bias)
        )
        return functional.layer_norm(inputs, self.shape, None, None, self.eps) * weight + bias


class OneModel(nn.Module):
    """Pixels to logits in one pass."""

    def __init__(self, backbone: Backbone, tuned: Mapping[str, Tensor], head: Head) -> None:
        """tuned: values in place of the backbone's own parameters."""
        super().__init__()
        self.backbone = backbone
        self.model = shared_copy(backbone.model)
        for name, tensor in tuned.items():
            self.model.get_parameter(name).data = tensor.cpu()
        self.read = reader(self.model, backbone)
        self.head = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, S, S, 3] -> logits and probabilities [B, C]."""
        logits = logits_of(self.head, self.read(prepared(self.backbone, pixels)))
        return logits, logits.softmax(1)


class TwoPasses(nn.Module):
    """Pixels to logits: a frozen pass, the choice of a task, and a pass with the task's LayerNorms."""

    def __init__(self, encoder: SelectingEncoder, rows: Rows, head: Head) -> None:
        """rows: the selector's scores."""
        super().__init__()
        self.backbone, self.rows, self.head = encoder.frozen, rows, head
        self.members = functional.one_hot(rows.task).float()  # [R, T]; here, since a graph cannot count the tasks
        self.frozen = reader(encoder.frozen.model, encoder.frozen)
        self.bank = dict(encoder.bank)
        self.tuned = shared_copy(encoder.frozen.model)
        for name in sorted({name.rpartition(".")[0] for name in self.bank}):
            norm = self.tuned.get_submodule(name)
            if not isinstance(norm, nn.LayerNorm):
                raise UserError(f"a graph holds only LayerNorms of each task, not {name}: choose --format learner")
            self.tuned.set_submodule(name, RowNorm(norm))
        self.read = reader(self.tuned, encoder.frozen)
        self.place = "" if self.read is self.tuned else "model."  # of the model's parameters in what reads it

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [B, S, S, 3] -> logits and probabilities [B, C], and the task [B], counted from 0."""
        inputs = prepared(self.backbone, pixels)
        task = choose(self.rows, self.members, self.frozen(inputs))
        gathered = {self.place + name: rows[task] for name, rows in self.bank.items()}
        logits = logits_of(self.head, functional_call(self.read, gathered, (inputs,), tie_weights=False))
        return logits, logits.softmax(1), task


def reader(model: nn.Module, backbone: Backbone) -> nn.Module:
    """What gives the features [B, V D] that the backbone reads, from this copy of its model."""
    return model if backbone.vectors is None else Vectors(model, backbone.vectors)


def prepared(backbone: Backbone, pixels: Tensor) -> Tensor:
    """The model's input, as Backbone.prepare makes it: [B, 3, S, S]."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - backbone.mean) / backbone.std


def logits_of(head: Head, features: Tensor) -> Tensor:
    """Logits [B, C] of features [B, D]."""
    inputs = head.inputs(features)
    logits = inputs @ head.weight.T + head.bias
    if head.factors is None or head.offsets is None:
        return logits
    return logits + lengths(inputs, head.factors, head.offsets) / 2


def choose(rows: Rows, members: Tensor, queries: Tensor) -> Tensor:
    """The task [B] of the highest score, from queries [B, D]. Of equal scores, the first task wins, as in argmax.

    members: [R, T], 1 where a row belongs to a task.
    """
    scores = (functional.normalize(queries, dim=1) if rows.directions else queries) @ rows.weight.T + rows.bias
    if not rows.sums:
        return rows.task[scores.argmax(1)]
    return ((scores - scores.amax(1, keepdim=True)).exp() @ members).argmax(1)
