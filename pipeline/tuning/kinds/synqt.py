"""`tuning: synqt`: queries beside the frozen stream (arXiv 2407.06964).

The tokens run through the frozen backbone as always. Beside block l run n queries p [n, D] of a task. They begin as
learned vectors plus s times the mean of the queries that left the block before, and then ask the block's frozen parts,

    p = A(p),   p += a attend(LN p),   p += b A(LN p),
    h = proj(softmax(W_q norm1(p) K') V),   p += h,   f = mlp(norm2(p)),   p += f,

where K and V are those of the block's tokens, and A(x) = x + up gelu(down x) is a residual adapter. No token sees a
query. So one pass of the frozen backbone gives its own output and the features of all tasks, and none of them changes.

`published`: the feature is a weighted sum of the means of p, h and f of all blocks. `slim`: thin adapters without
biases, and no attention among queries; the feature is the last mean of p plus the mean of all h. Both go through a
LayerNorm of their own that starts as the backbone's last. There is neither dropout nor drop path.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.params import Record
from pipeline.store.cumulative import part, row
from pipeline.tuning.kind import Kind, Rows
from pipeline.tuning.stream import ask, last_norm, pass_with, plain_blocks

RANK, MIX_RANK, SLIM_RANK = 48, 8, 4  # of adapters; of those of the queries' attention; of slim adapters
FROM_BEFORE, FROM_MIX, FROM_ADAPTER = 0.1, 1.0, 0.1  # s, a and b at the start, as published for CIFAR-100


class Options(Record):
    """How large a branch is, and what its feature is."""

    form: Literal["slim", "published"]
    queries: Annotated[int, Field(ge=1, le=1000)]  # n, per block
    feature: Literal["added", "alone"]  # to the frozen output, by a learned factor that starts at 0; or as published


def place(like: Tensor, *shape: int, value: float = 0.0) -> nn.Parameter:
    """For a tuned tensor of this shape."""
    return nn.Parameter(like.new_full(shape, value), requires_grad=False)


class Adapter(nn.Module):
    """x + up gelu(down x)."""

    def __init__(self, like: Tensor, rank: int, *, bias: bool) -> None:
        """like: a weight [*, D] of the model."""
        super().__init__()
        width = like.shape[-1]
        self.down, self.up = place(like, rank, width), place(like, width, rank)
        self.down_bias = place(like, rank) if bias else None
        self.up_bias = place(like, width) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., D] to the same."""
        hidden = functional.gelu(functional.linear(inputs, self.down, self.down_bias))
        return inputs + functional.linear(hidden, self.up, self.up_bias)


class Norm(nn.Module):
    """A LayerNorm; without tuned numbers in the slim form."""

    def __init__(self, like: Tensor, *, tuned: bool, eps: float = 1e-6) -> None:
        """like: a weight [*, D] of the model."""
        super().__init__()
        self.shape, self.eps = like.shape[-1:], eps
        self.weight = place(like, *self.shape, value=1.0) if tuned else None
        self.bias = place(like, *self.shape) if tuned else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., D] to the same."""
        return functional.layer_norm(inputs, self.shape, self.weight, self.bias, self.eps)


class Mix(nn.Module):
    """Attention among the queries, with one head and an adapter for each of its four maps."""

    def __init__(self, like: Tensor) -> None:
        """like: a weight [*, D] of the model."""
        super().__init__()
        self.q_norm, self.kv_norm = Norm(like, tuned=True), Norm(like, tuned=True)
        self.q, self.k, self.v, self.out = (Adapter(like, MIX_RANK, bias=True) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, n, D] to the same."""
        query, known = self.q(self.q_norm(inputs)), self.kv_norm(inputs)
        scores = query @ self.k(known).transpose(1, 2) * inputs.shape[-1] ** -0.5
        return self.out(scores.softmax(-1) @ self.v(known))  # type: ignore[no-any-return]


class Step(nn.Module):
    """How the queries enter one block."""

    def __init__(self, like: Tensor, options: Options, *, is_first: bool) -> None:
        """like: a weight [*, D] of the block."""
        super().__init__()
        full = options.form == "published"
        adapter = partial(Adapter, like, RANK if full else SLIM_RANK, bias=full)
        self.queries = place(like, options.queries, like.shape[-1])
        self.before = None if is_first else place(like, value=FROM_BEFORE)
        self.enter, self.adapter = adapter(), adapter()
        self.norm = Norm(like, tuned=full)
        self.adapter_share = place(like, value=FROM_ADAPTER)
        self.mix = Mix(like) if full else None
        self.mix_norm = Norm(like, tuned=True) if full else None
        self.mix_share = place(like, value=FROM_MIX) if full else None

    def forward(self, batch: int, before: Tensor | None) -> Tensor:
        """The queries [B, n, D]; before: the mean [B, D] of those that left the block before."""
        queries = self.queries.expand(batch, -1, -1)
        if before is not None and self.before is not None:
            queries = queries + self.before * before[:, None]
        queries = self.enter(queries)
        if self.mix is not None:
            queries = queries + self.mix_share * self.mix(self.mix_norm(queries))  # type: ignore[misc]
        return queries + self.adapter_share * self.adapter(self.norm(queries))  # type: ignore[no-any-return]


class Combiner(nn.Module):
    """A weighted sum of vectors; the first weighs 1 and decides the weights of the others."""

    def __init__(self, like: Tensor, count: int) -> None:
        """like: a weight [*, D] of the model; count: of the vectors."""
        super().__init__()
        self.norm, self.adapter = Norm(like, tuned=True), Adapter(like, RANK, bias=True)
        self.down, self.bias = place(like, count - 1, like.shape[-1]), place(like, count - 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """[count, B, D] to [B, D]."""
        vectors = vectors + self.adapter(self.norm(vectors))
        others = functional.gelu(functional.linear(vectors[0], self.down, self.bias)).tanh()  # [B, count - 1]
        weighted: Tensor = vectors[0] + (vectors[1:] * others.T[:, :, None]).sum(0)
        return weighted


class Branch(nn.Module):
    """All that a task tunes: what runs beside the blocks, and how its feature is formed."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        """model: frozen. Raises UserError if its blocks are others than a plain ViT's."""
        super().__init__()
        blocks, last = plain_blocks(model), last_norm(model)
        like = last.weight
        self.steps = nn.ModuleList(Step(like, options, is_first=not number) for number in range(len(blocks)))
        self.combine = Combiner(like, 3 * len(blocks) + 1) if options.form == "published" else None
        self.norm = Norm(like, tuned=True, eps=last.eps)
        self.norm.load_state_dict(last.state_dict())
        self.factor = place(like) if options.feature == "added" else None

    def feature(self, frozen: Tensor, means: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """[B, D], from the frozen output [B, D] and the means [B, D] of p, h and f of each block."""
        last = means[-1][0]
        if self.combine is None:
            vector = last + torch.stack([found for _, found, _ in means]).mean(0)
        else:
            vector = self.combine(torch.stack([last, *(mean for of_block in means for mean in of_block)]))
        formed: Tensor = self.norm(vector)
        return formed if self.factor is None else frozen + self.factor * formed


class Walk:
    """One branch on its way along the blocks, for one batch."""

    def __init__(self, branch: Branch) -> None:
        """Before the first block."""
        self.branch, self.means = branch, list[tuple[Tensor, Tensor, Tensor]]()

    def __call__(self, block: nn.Module, qkv: Tensor) -> None:
        """Past the next block, whose tokens have these queries, keys and values [B, N, 3 D]."""
        queries = self.branch.steps[len(self.means)](len(qkv), self.means[-1][0] if self.means else None)
        found, formed = ask(block, queries, qkv)
        self.means.append(((queries + found + formed).mean(1), found.mean(1), formed.mean(1)))

    def feature(self, frozen: Tensor) -> Tensor:
        """[B, D] after the last block; frozen: the backbone's own output [B, D]."""
        return self.branch.feature(frozen, self.means)


def run(model: nn.Module, branches: Sequence[Branch], inputs: Tensor) -> list[Tensor]:
    """One pass of the frozen model: its output, then the feature of each branch, [B, D] each."""
    walks = [Walk(branch) for branch in branches]
    frozen = pass_with(model, inputs, walks)
    return [frozen, *(walk.feature(frozen) for walk in walks)]


class Branched(nn.Module):
    """The frozen model, and one branch beside it: its output is the branch's feature."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        """model: frozen; it is not changed."""
        super().__init__()
        self.model, self.branch = model, Branch(model, options)
        self.num_features = int(model.num_features)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D]."""
        return run(self.model, [self.branch], inputs)[1]


class Together(nn.Module):
    """The frozen model, and the branches of T tasks beside it."""

    def __init__(self, branched: Branched, bank: Rows) -> None:
        """bank: the tensors of T tasks, [T, ...] each."""
        super().__init__()
        tasks = len(next(iter(bank.values())))
        self.model, self.branches = branched.model, [copy.deepcopy(branched.branch) for _ in range(tasks)]
        for task, branch in enumerate(self.branches):
            branch.load_state_dict(part(row(bank, task), "branch."))
        self.num_features = (1 + tasks) * branched.num_features

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, (1 + T) D]: the frozen output, then each task's feature."""
        return torch.cat(run(self.model, self.branches, inputs), 1)


def start(backbone: Backbone, options: Options, previous: Tuned, images: Images, generator: torch.Generator) -> Tuned:
    """What the task before has tuned; or queries within 1, and adapters that add nothing yet."""
    del options, images
    if previous:
        return previous
    names = [name for name, _ in backbone.model.named_parameters() if name.startswith("branch.")]
    tensors = backbone.pretrained(names)
    for name, tensor in tensors.items():
        if (which := name.rpartition(".")[2]) in ("queries", "down"):
            bound = 1.0 if which == "queries" else tensor.shape[1] ** -0.5
            tensor.uniform_(-bound, bound, generator=generator)
    return tensors


KIND = Kind(
    options=Options,
    start=start,
    sentence="""Each task tunes queries that run beside the frozen backbone and ask its blocks. The backbone's own
        tokens stay as they are, so one pass gives the features of all tasks.""",
    places=Branched,
    means=None,  # of queries that start at random, and of products of two matrices
    together=Together,
    size=0.1,
)
