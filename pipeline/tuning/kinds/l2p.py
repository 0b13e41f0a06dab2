"""`tuning: l2p`: a pool of prompts, of which each image gets the few with the most similar keys (arXiv 2112.08654).

The chosen prompts are tokens behind the CLS token. As in the authors' code, they get the CLS token's position, and the
mean of their outputs is the feature. The loss is the cross-entropy over the task's classes minus `pull` times the sum
of the cosines between an image's query and its prompts' keys. One pool serves all tasks, and every task trains it.

In training, as in the authors' code, all images of a batch get the same prompts: those that most of them would choose.
At inference the authors' code does the same, which tells the task where test images are sorted by class. Here, every
test image chooses for itself.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.machine.devices import add_up
from pipeline.params import Record
from pipeline.tuning.kind import AnyModel, Kind
from pipeline.tuning.prompts import SIZE, in_training, register_mark, similarity, uniform, with_prompts


class Options(Record):
    """The pool, and how much of it an image gets."""

    pool: Annotated[int, Field(ge=1, le=100_000)]
    length: Annotated[int, Field(ge=1, le=10_000)]
    top: Annotated[int, Field(ge=1, le=1000)]
    pull: Annotated[float, Field(ge=0, le=1e6)]

    @model_validator(mode="after")
    def _check_top(self) -> "Options":
        if self.top > self.pool:
            raise ValueError(f"top is {self.top}, but the pool has {self.pool} prompts")
        return self


class Pool(nn.Module):
    """P prompts of L tokens with their keys; the tokens and similarities of the last batch."""

    tokens: Tensor  # [B, top L, D]
    similarities: Tensor  # [B, top]
    in_training: Tensor

    def __init__(self, options: Options, like: Tensor) -> None:
        """like: a parameter [..., D], for width, type and device."""
        super().__init__()
        self.top, self.pull, dim = options.top, options.pull, like.shape[-1]
        self.prompts = nn.Parameter(like.new_zeros(options.pool, options.length, dim), requires_grad=False)
        self.keys = nn.Parameter(like.new_zeros(options.pool, dim), requires_grad=False)
        register_mark(self)

    def choose(self, query: Tensor) -> None:
        """Take the prompts of the most similar keys; in training, those that most images of the batch would take."""
        similarities = similarity(query, self.keys)  # [B, P]
        best = similarities.topk(self.top, dim=1).indices
        if bool(self.in_training):
            best = most_frequent(best, len(self.keys)).expand(len(query), -1)
        self.similarities = similarities.gather(1, best)
        self.tokens = self.prompts[best].flatten(1, 2)


def most_frequent(chosen: Tensor, pool: int) -> Tensor:
    """The n of P prompts that the images of a batch, on all devices, choose most often: [b, n] -> [n].

    Among equally frequent ones, the first in the pool counts.
    """
    counts = functional.one_hot(chosen, pool).sum((0, 1))
    add_up([counts])
    return counts.argsort(descending=True, stable=True)[: chosen.shape[1]]


def places(model: AnyModel, options: Options) -> AnyModel:
    """A copy of the model with a pool. Raises UserError for a model whose output is not that of its CLS token."""
    of: Any = model
    if getattr(of, "cls_token", None) is None or not hasattr(of, "norm_pre") or of.global_pool != "token":
        raise UserError("params.yaml: tuning: l2p needs a ViT whose output is its CLS token: set tuning: layernorm")
    pool = Pool(options, of.cls_token)
    prompted: Any = with_prompts(model, pool)

    def insert(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        tokens, position = pool.tokens, 0 if of.no_embed_class or of.pos_embed is None else of.pos_embed[:, :1]
        before, behind = inputs[0][:, :1], inputs[0][:, 1:]
        return (torch.cat([before, (tokens + position).to(before.dtype), behind], 1),)

    def average(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        del inputs
        return output[:, 1 : 1 + pool.tokens.shape[1]].mean(1, keepdim=True)

    prompted.norm_pre.register_forward_pre_hook(insert)
    prompted.norm.register_forward_hook(average)
    return prompted  # type: ignore[no-any-return]


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """The pool of the task before, or prompts and keys uniform within -1 and 1."""
    del images
    dim = backbone.model.num_features
    return previous or {
        "prompts.prompts": uniform((options.pool, options.length, dim), generator),
        "prompts.keys": uniform((options.pool, dim), generator),
    }


def penalty(model: nn.Module) -> Tensor:
    """Minus the similarity of the images to the keys of their prompts."""
    pool: Any = model.get_submodule("prompts")
    return -pool.pull * pool.similarities.sum(1).mean()  # type: ignore[no-any-return]


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task tunes a pool of prompts. The frozen backbone's output chooses a few of them for each image;
    they
        join its tokens.""",
    places=places,
    means=None,
    penalty=penalty,
    draw=in_training,
    asks_frozen=True,
    size=SIZE,
    keeps="newest",
)
