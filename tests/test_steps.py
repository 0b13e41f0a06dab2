"""The heads of all steps: stored is what changed, read is every head whole."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.linear.head import Head
from pipeline.linear.steps import append_step, step_heads

STEPS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6)  # new classes, old ones change


@given(STEPS)
def test_every_step_leaves_a_whole_head_and_old_rows_are_stored_once(steps: list[tuple[int, bool]]) -> None:
    random = torch.Generator().manual_seed(0)
    head, heads, rows = Head(torch.empty(0, 4), torch.empty(0)), [], 0
    stored: dict[str, torch.Tensor] = {}
    for new, may_change in steps:
        changes = may_change and len(head.bias) > 0
        weight, bias = torch.randn(new, 4, generator=random), torch.randn(new, generator=random)
        old = head.weight.clone(), head.bias + changes
        head = Head(torch.cat([old[0], weight]), torch.cat([old[1], bias]))
        rows += len(head.bias) if changes else new
        before = {name: tensor.clone() for name, tensor in stored.items()}
        stored = append_step(stored, head)
        heads.append(head)
        assert all(torch.equal(stored[name][: len(tensor)], tensor) for name, tensor in before.items())
    assert len(stored["weight"]) == len(stored["bias"]) == rows
    for expected, found in zip(heads, step_heads(stored), strict=True):
        assert torch.equal(found.weight, expected.weight)
        assert torch.equal(found.bias, expected.bias)


def test_heads_behind_random_features_share_them() -> None:
    projection = torch.randn(3, 4)
    stored = append_step({}, Head(torch.ones(1, 4), torch.zeros(1)))
    stored = append_step(stored, Head(torch.ones(2, 4), torch.zeros(2)))
    assert [head.projection is projection for head in step_heads(stored, projection)] == [True, True]
    assert stored["ends"].tolist() == [1, 2]
