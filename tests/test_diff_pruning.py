"""Gates, pruning and the sparse change against formulas written out here; sizes, costs and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.parameters import set_params
from harness.stage_order import run_stage
from harness.stage_repository import frozen_flops, prepare, run_all
from harness.tiny import random_images
from pipeline.backbone.timm_vit import create_model
from pipeline.backbone.vit import Backbone, Tuned
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.store import artifacts
from pipeline.store.cumulative import row
from pipeline.tuning.bank import load_bank
from pipeline.tuning.kind import Kind, with_places
from pipeline.tuning.kinds import diff_pruning
from pipeline.tuning.kinds.diff_pruning import Options

KIND = diff_pruning.KIND
GATES = diff_pruning.GATES
ON = ["weights", "layernorms"]
IMAGES = Images.of_pixels(random_images(4))


def options(on: str = "weights", share: float = 0.1, penalty: float = 2.0) -> Options:
    return Options.model_validate(
        {"on": on, "share": share, "penalty": penalty, "change_speed": 0.5, "gate_speed": 10.0}
    )


def started(backbone: Backbone, kind: Kind, of: Options, previous: Tuned | None = None) -> tuple[Backbone, Tuned]:
    placed = with_places(backbone, kind, of)
    return placed, kind.start(placed, of, previous or {}, IMAGES, torch.Generator())


def numbers_of(backbone: Backbone, on: str) -> dict[str, Tensor]:
    """What may change, found by type and name."""
    return {
        name: tensor
        for name, tensor in backbone.model.named_parameters()
        if on == "weights" or ".norm" in name or name.startswith("norm")
    }


def gated(generator: torch.Generator, numbers: dict[str, Tensor]) -> Tuned:
    """Changes and gates as a training might leave them."""
    count = sum(tensor.numel() for tensor in numbers.values())
    sizes = {"change": 0.1, "gates": 0.1, "groups": 0.1}
    shapes = {"change": count, "gates": count, "groups": len(numbers)}
    return {name: sizes[name] * torch.randn(shapes[name], generator=generator) for name in shapes}


@pytest.mark.parametrize("on", ON)
def test_values_and_gradients_under_gates_are_those_of_the_formulas(on: str, backbone: Backbone) -> None:
    """Gradients by hand: dw = g z z_g, da = g w z_g dz/da, da_g = sum of g w z dz_g/da_g, and those of the penalty."""
    of = options(on)
    numbers = numbers_of(backbone, on)
    tuned = gated(torch.Generator().manual_seed(0), numbers)
    seed = torch.tensor(1234)
    placed, _ = started(backbone, GATES, of)
    inputs = backbone.prepare(random_images(4))
    ours = {name: tensor.clone().requires_grad_() for name, tensor in tuned.items()}
    features = placed.forward(inputs, ours | {"seed": seed})
    (features.square().sum() + diff_pruning.penalty(placed.model)).backward()

    count = len(tuned["change"])
    u = torch.rand(count + len(numbers), generator=torch.Generator().manual_seed(1234)) * (1 - 2e-4) + 1e-4
    a = 10 * torch.cat([tuned["gates"], tuned["groups"]])
    s = 1 / (1 + torch.exp(-(torch.log(u) - torch.log(1 - u) + a)))
    z = (3 * s - 1.5).clamp(0, 1)
    slope = torch.where((z > 0) & (z < 1), 3 * s * (1 - s), 0.0)
    open_slope = torch.sigmoid(a) * (1 - torch.sigmoid(a)) * 2.0 / len(a)
    weights, at, expected = {}, 0, {name: torch.zeros_like(tensor) for name, tensor in tuned.items()}
    for number, (name, tensor) in enumerate(numbers.items()):
        rows = slice(at, at + tensor.numel())
        at += tensor.numel()
        change = 0.5 * z[count + number] * z[rows] * tuned["change"][rows]
        weights[name] = (tensor + change.view_as(tensor)).requires_grad_()
    plain = functional_call(backbone.model, weights, (inputs,))
    plain.square().sum().backward()
    at = 0
    for number, (name, tensor) in enumerate(numbers.items()):
        rows = slice(at, at + tensor.numel())
        at += tensor.numel()
        gradient = weights[name].grad
        assert gradient is not None
        g, w, z_g = gradient.flatten(), 0.5 * tuned["change"][rows], z[count + number]
        expected["change"][rows] = 0.5 * g * z[rows] * z_g
        expected["gates"][rows] = 10 * (g * w * z_g * slope[rows] + open_slope[rows])
        expected["groups"][number] = 10 * ((g * w * z[rows]).sum() * slope[count + number] + open_slope[count + number])
    torch.testing.assert_close(features, plain, atol=1e-5, rtol=1e-5)
    assert float(diff_pruning.penalty(placed.model).detach()) == pytest.approx(2.0 * float(torch.sigmoid(a).mean()))
    for name, tensor in ours.items():
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, expected[name], atol=1e-4, rtol=1e-5, msg=name)


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("kind", [GATES, KIND], ids=["gates", "sparse"])
def test_the_start_is_the_pretrained_model_bit_for_bit(kind: Kind, on: str, backbone: Backbone) -> None:
    placed, start = started(backbone, kind, options(on))
    inputs = backbone.prepare(random_images(4))
    drawn = kind.draw(torch.Generator().manual_seed(0))
    assert torch.equal(placed.forward(inputs, start | drawn), backbone.model(inputs))


def test_gates_begin_open_and_noise_is_new_for_every_batch(backbone: Backbone) -> None:
    placed, start = started(backbone, GATES, options())
    assert all(bool((10 * start[name] == 5).all()) for name in ("gates", "groups"))
    generator = torch.Generator().manual_seed(0)
    first, second = GATES.draw(generator), GATES.draw(generator)
    inputs = backbone.prepare(random_images(4))
    shut = start | {"gates": torch.zeros_like(start["gates"]), "change": torch.ones_like(start["change"])}
    features = [placed.forward(inputs, shut | drawn) for drawn in (first, second, first)]
    assert not torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


def test_a_task_searches_from_the_change_of_the_one_before(backbone: Backbone) -> None:
    _, kept = started(
        backbone, KIND, options(), gated(torch.Generator().manual_seed(1), numbers_of(backbone, "weights"))
    )
    _, start = started(backbone, GATES, options(), kept)
    dense = 0.5 * start["change"]
    assert torch.equal(dense[kept["indices"]], kept["values"])
    assert int((dense != 0).sum()) == len(kept["values"])
    assert all(bool((10 * start[name] == 5).all()) for name in ("gates", "groups"))
    placed, again = started(backbone, KIND, options(), start)
    assert torch.equal(again["indices"], kept["indices"])
    inputs = backbone.prepare(random_images(4))
    assert torch.equal(placed.forward(inputs, again), placed.forward(inputs, kept)), "gates begin open in expectation"


@pytest.mark.parametrize("on", ON)
def test_the_largest_changes_under_expected_gates_are_kept(on: str, backbone: Backbone) -> None:
    numbers = numbers_of(backbone, on)
    learned = gated(torch.Generator().manual_seed(1), numbers)
    placed, start = started(backbone, KIND, options(on), learned)
    change = []
    at = 0
    for number, tensor in enumerate(numbers.values()):
        z_g = min(max(3 / (1 + math.exp(-10 * float(learned["groups"][number]))) - 1.5, 0), 1)
        z = (3 * torch.sigmoid(10 * learned["gates"][at : at + tensor.numel()]) - 1.5).clamp(0, 1)
        change.append(0.5 * z_g * z * learned["change"][at : at + tensor.numel()])
        at += tensor.numel()
    dense = torch.cat(change)
    wanted = round(0.1 * len(dense))
    assert start["indices"].dtype == torch.int32
    assert len(start["indices"]) == len(start["values"]) == wanted
    assert start["indices"].tolist() == sorted(dense.abs().sort(descending=True).indices[:wanted].tolist())
    torch.testing.assert_close(start["values"], dense[start["indices"]])
    pruned = torch.zeros_like(dense)
    pruned[start["indices"]] = dense[start["indices"]]
    parts = pruned.split([tensor.numel() for tensor in numbers.values()])
    weights = {name: tensor + part.view_as(tensor) for (name, tensor), part in zip(numbers.items(), parts, strict=True)}
    inputs = backbone.prepare(random_images(4))
    expected = functional_call(backbone.model, weights, (inputs,))
    torch.testing.assert_close(placed.forward(inputs, start), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(placed.encode(Images.of_pixels(random_images(4)), start), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_what_is_kept_are_those_of_the_weights(backbone: Backbone) -> None:
    numbers = numbers_of(backbone, "weights")
    placed, start = started(backbone, KIND, options(), gated(torch.Generator().manual_seed(1), numbers))
    inputs, values = backbone.prepare(random_images(4)), start["values"].clone().requires_grad_()
    placed.forward(inputs, start | {"values": values}).square().sum().backward()
    weights = {
        name: tensor.requires_grad_()
        for name, tensor in KIND.fold(backbone.model, options(), start).items()  # type: ignore[misc]
    }
    functional_call(backbone.model, weights, (inputs,)).square().sum().backward()
    dense = torch.cat([tensor.grad.flatten() for tensor in weights.values() if tensor.grad is not None])
    assert values.grad is not None
    torch.testing.assert_close(values.grad, dense[start["indices"]], atol=1e-5, rtol=1e-5)


def test_the_mean_of_tasks_is_that_of_their_weights(backbone: Backbone) -> None:
    of = options(share=0.02)
    numbers = numbers_of(backbone, "weights")
    tasks = [started(backbone, KIND, of, gated(torch.Generator().manual_seed(seed), numbers))[1] for seed in range(3)]
    rows = {name: torch.stack([task[name] for task in tasks]) for name in tasks[0]}
    assert KIND.means
    assert KIND.fold
    means = KIND.means(rows)
    for last in range(3):
        folded = KIND.fold(backbone.model, of, row(means, last))
        models = [KIND.fold(backbone.model, of, task) for task in tasks[: last + 1]]
        for name, tensor in folded.items():
            expected = torch.stack([model[name] for model in models]).mean(0)
            torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("on", "share", "expected"), [("weights", 0.005, 429_000), ("layernorms", 0.1, 3_840)])
def test_published_numbers_of_parameters(on: str, share: float, expected: int) -> None:
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", num_classes=0)
    sparse = diff_pruning.Sparse(model, options(on, share))
    assert len(sparse.values) == pytest.approx(expected, rel=0.001)
    assert len(sparse.get_buffer("indices")) == len(sparse.values)


@pytest.mark.parametrize("kind", [GATES, KIND], ids=["gates", "sparse"])
def test_on_layernorms_no_gradient_of_a_weight_is_computed(kind: Kind, backbone: Backbone) -> None:
    """The backward pass takes the operations of plain LayerNorm tuning."""

    def backward(placed: Backbone, tuned: Tuned, drawn: Tuned) -> int:
        with sdpa_kernel(SDPBackend.MATH):
            floats = {name: tensor for name, tensor in tuned.items() if tensor.is_floating_point()}
            learning = {name: tensor.clone().requires_grad_() for name, tensor in floats.items()}
            loss = placed.forward(backbone.prepare(random_images(4)), tuned | learning | drawn).sum()
            with FlopCounterMode(display=False) as counter:
                loss.backward()
        return int(counter.get_total_flops())

    placed, start = started(backbone, kind, options("layernorms"))
    norms = {name: tensor.detach() for name, tensor in numbers_of(backbone, "layernorms").items()}
    everything = {name: tensor.detach() for name, tensor in numbers_of(backbone, "weights").items()}
    drawn = kind.draw(torch.Generator())
    assert backward(placed, start, drawn) == backward(backbone, norms, {}) < backward(backbone, everything, {})


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(("on", "numbers"), [("weights", 7_664), ("layernorms", 160)])
def test_a_task_stores_what_the_share_says(on: str, numbers: int, backbone: Backbone) -> None:
    assert sum(tensor.numel() for tensor in numbers_of(backbone, on).values()) == numbers
    set_params(Path("params.yaml"), tuning="diff_pruning", **{"diff_pruning.on": on, "diff_pruning.share": 0.05})
    run_all(3)
    kept = round(0.05 * numbers)
    bank = artifacts.load_tensors(artifacts.bank_file("t3"))
    assert {name: (tuple(rows.shape), rows.dtype) for name, rows in bank.items()} == {
        "indices": ((3, kept), torch.int32),
        "values": ((3, kept), torch.float32),
    }
    assert bool((bank["values"] != 0).all())
    first, second = (artifacts.bank_file(task).stat().st_size for task in ("t2", "t3"))
    assert second - first == pytest.approx(8 * kept, abs=64)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert metrics["task_parameters"] == kept
    frozen = frozen_flops()
    assert metrics["gflop_at_inference"] == pytest.approx(2 * frozen / 1e9, abs=1e-6)


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize("classifier", ["softmax", "carried_gaussians"])
def test_the_mean_is_one_model_whose_bytes_are_counted(classifier: str) -> None:
    set_params(
        Path("params.yaml"),
        tuning="diff_pruning",
        tuning_init="pretrained",
        selection="average",
        classifier=classifier,
        lr=0.001,
        **{"diff_pruning.share": 0.02},
    )
    run_all(3)
    metrics = artifacts.load_json(artifacts.EVALUATION)["metrics"]
    assert metrics["passes_at_inference"] == 1
    bank = load_bank(artifacts.bank_file("t3"), 3)
    assert bank.kind.means
    places = len(bank.tensors["indices"].unique())
    assert places > bank.tensors["indices"].shape[1], "tasks change other numbers"
    state = artifacts.load_tensors(artifacts.heads_file("t3"))
    rows = sum(tensor.nbytes for name, tensor in state.items() if name.startswith("tuned.state."))
    assert 3 * metrics["bytes_per_task"] == pytest.approx(8 * places + rows, abs=1)


@pytest.mark.usefixtures("tiny_repository")
def test_a_task_of_one_class_changes_nothing() -> None:
    set_params(Path("params.yaml"), tuning="diff_pruning", classes_per_task=1)
    prepare()
    run_stage("stage_one", "t1")
    assert not artifacts.load_tensors(artifacts.bank_file("t1"))["values"].any()


@pytest.mark.usefixtures("tiny_repository")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": "norms"}, "diff_pruning.on: input should be 'layernorms' or 'weights', found 'norms'"),
        ({"share": 0.0}, "diff_pruning.share: input should be greater than 0, found 0.0"),
        ({"share": 1.5}, "diff_pruning.share: input should be less than or equal to 1, found 1.5"),
        ({"penalty": -1.0}, "diff_pruning.penalty: input should be greater than or equal to 0, found -1.0"),
        ({"gate_speed": 0.0}, "diff_pruning.gate_speed: input should be greater than or equal to 0.001, found 0.0"),
        ({"change_speed": 0.0}, "diff_pruning.change_speed: input should be greater than or equal to 0.001, found 0.0"),
        ({"gate_sped": 1.0}, "diff_pruning.gate_sped: extra inputs are not permitted"),
    ],
)
def test_bad_options_are_one_line(changes: dict[str, object], message: str) -> None:
    set_params(Path("params.yaml"), tuning="diff_pruning", diff_pruning=changes)
    with pytest.raises(UserError, match=message):
        run_stage("method")
