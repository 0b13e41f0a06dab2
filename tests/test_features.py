"""Each feature is computed once: the feature table against brute force, and the passes it counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tiny import pretrained_layernorms, random_images, selector_state
from pipeline.backbone.vit import Backbone
from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.evaluation.predictions import EvaluationSet, accuracy_matrix, selection_matrix, step_predictions
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.features import encode_selected, extend_table
from pipeline.inference.rematch import rematch
from pipeline.linear.head import Head
from pipeline.progress import Progress
from pipeline.selection.key import closed_form_key
from pipeline.selection.prototypes import nearest_prototype
from pipeline.store.cumulative import append_rows, row, running_means

TASKS, PER_TASK, CLASSES_PER_TASK = 5, 12, 3
DIM = 16
IMAGES = Images.of_pixels(random_images(TASKS * PER_TASK, seed=4))
TEST = EvaluationSet(
    tasks=torch.arange(TASKS).repeat_interleave(PER_TASK),
    labels=torch.arange(TASKS * CLASSES_PER_TASK).repeat_interleave(PER_TASK // CLASSES_PER_TASK),
    seen_classes=[CLASSES_PER_TASK * (task + 1) for task in range(TASKS)],
)


def make_bank(backbone: Backbone) -> dict[str, torch.Tensor]:
    """LayerNorms of five tasks, far apart."""
    generator = torch.Generator().manual_seed(7)
    bank: dict[str, torch.Tensor] = {}
    for _ in range(TASKS):
        new = {
            name: (t + 0.5 * torch.randn(t.shape, generator=generator))[None]
            for name, t in pretrained_layernorms(backbone).items()
        }
        bank = append_rows(bank, new)
    return bank


def first_tasks(bank: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    return {name: rows[:count] for name, rows in bank.items()}


def build_table(backbone: Backbone, bank: dict[str, torch.Tensor], choices: list[torch.Tensor]) -> FeatureTable:
    """The table after all steps. `choices[t]` are the tasks selected at step t for the images so far."""
    table = FeatureTable.empty(DIM)
    for step, selected in enumerate(choices):
        tasks_so_far = first_tasks(bank, step + 1)

        def encode(
            image: torch.Tensor, task: torch.Tensor, bank: dict[str, torch.Tensor] = tasks_so_far
        ) -> torch.Tensor:
            return encode_selected(backbone, IMAGES[image], task, bank, Progress("test", 0))

        table = extend_table(table, selected, encode)
    return table


def choices_by_key(backbone: Backbone) -> list[torch.Tensor]:
    queries = backbone.encode(IMAGES, pretrained_layernorms(backbone))
    keys = torch.stack([closed_form_key(part) for part in queries.split(PER_TASK)])
    keys += 0.2 * torch.randn(keys.shape, generator=torch.Generator().manual_seed(0))  # so that images disagree
    return [
        nearest_prototype(selector_state(keys[: step + 1]), queries[: len(own)]).argmax(1)
        for step, own in enumerate(TEST.tasks[: (step + 1) * PER_TASK] for step in range(TASKS))
    ]


def test_running_means_are_means_and_do_not_depend_on_tasks_to_come(backbone: Backbone) -> None:
    bank = make_bank(backbone)
    means = running_means(bank)
    for name, rows in bank.items():
        for task in range(TASKS):
            torch.testing.assert_close(means[name][task], rows[: task + 1].mean(0))
    early = running_means(first_tasks(bank, 3))
    assert all(torch.equal(early[name], means[name][:3]) for name in bank)


def test_matrix_by_records_equals_evaluating_every_step_anew(backbone: Backbone) -> None:
    bank, choices = make_bank(backbone), choices_by_key(backbone)
    assert len(choices[-1].unique()) > 2
    table = build_table(backbone, bank, choices)
    head = Head(torch.randn(TASKS * CLASSES_PER_TASK, DIM, generator=torch.Generator().manual_seed(1)), torch.zeros(15))
    heads = [head.rows(0, classes) for classes in TEST.seen_classes]
    matrix = accuracy_matrix(TEST, step_predictions(TEST, heads, table.after))
    for step in range(TASKS):
        for task in range(step + 1):
            correct = 0
            for image in range(task * PER_TASK, (task + 1) * PER_TASK):  # one image at a time
                feature = backbone.encode(IMAGES[image : image + 1], row(bank, int(choices[step][image])))[0]
                logits = head.weight[: TEST.seen_classes[step]] @ feature
                correct += int(logits.argmax() == TEST.labels[image])
            assert matrix[step, task] == pytest.approx(correct / PER_TASK)
        assert torch.isnan(torch.from_numpy(matrix)[step, step + 1 :]).all()


def test_only_records_cost_a_pass(backbone: Backbone) -> None:
    queries = backbone.encode(IMAGES, pretrained_layernorms(backbone))
    choices = choices_by_key(backbone)
    table = build_table(backbone, make_bank(backbone), choices)
    records = 0
    for image in range(len(IMAGES)):
        history = [int(choice[image]) for choice in choices if image < len(choice)]
        records += len(set(history))
        assert history == sorted(history), "a key once beaten stays beaten"
    assert int(table.tuned_passes.sum()) == records
    assert len(queries) < records < len(IMAGES) * (TASKS + 1) / 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_table_holds_each_needed_pair_once_whatever_the_selector_says(seed: int) -> None:
    from harness.tiny import TINY_CONFIG, tiny_weights  # noqa: PLC0415  (fixtures do not mix with given)
    from pipeline.backbone.build import build_backbone  # noqa: PLC0415

    backbone = build_backbone(
        tiny_weights(), TINY_CONFIG, image_size=16, normalize="pretrained", device=torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(seed)
    choices = [torch.randint(step + 1, ((step + 1) * PER_TASK,), generator=generator) for step in range(TASKS)]
    table = build_table(backbone, make_bank(backbone), choices)
    needed = {(image, int(task)) for choice in choices for image, task in enumerate(choice)}
    own = {(image, image // PER_TASK) for image in range(len(IMAGES))}
    pairs = list(zip(table.image.tolist(), table.task.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == needed | own
    assert int(table.tuned_passes.sum()) == len(needed)
    for step, choice in enumerate(choices):
        assert torch.equal(table.selected[step, : len(choice)], choice)
        assert (table.selected[step, len(choice) :] == -1).all()


def test_images_run_under_their_own_task_whatever_their_order(backbone: Backbone) -> None:
    bank = make_bank(backbone)
    tasks = torch.randint(TASKS, (30,), generator=torch.Generator().manual_seed(2))
    features = encode_selected(backbone, IMAGES[:30], tasks, bank, Progress("test", 0))
    for image, task in enumerate(tasks.tolist()):
        expected = backbone.encode(IMAGES[image : image + 1], row(bank, task))[0]
        torch.testing.assert_close(features[image], expected, atol=1e-5, rtol=1e-4)


def test_lookup_refuses_what_was_never_computed(backbone: Backbone) -> None:
    table = build_table(backbone, make_bank(backbone), [torch.zeros(PER_TASK, dtype=torch.int64)])
    with pytest.raises(AssertionError, match="does not hold"):
        table.find(torch.tensor([0]), torch.tensor([3]))


def test_appended_rows_leave_earlier_rows_untouched(backbone: Backbone) -> None:
    bank = make_bank(backbone)
    longer = append_rows(bank, {name: rows[:1] + 1 for name, rows in bank.items()})
    assert all(torch.equal(longer[name][:TASKS], rows) for name, rows in bank.items())
    assert all(torch.equal(tensor, bank[name][0] + 1) for name, tensor in row(longer, TASKS).items())


def test_rematching_asks_the_predicted_tasks_model_until_both_agree(backbone: Backbone) -> None:
    """Compared image by image: the same answers, as many re-matches, and one pass per pair that is new."""
    bank, choices = make_bank(backbone), choices_by_key(backbone)
    table = build_table(backbone, bank, choices)
    rows = torch.randn(TASKS * CLASSES_PER_TASK, DIM, generator=torch.Generator().manual_seed(1))
    heads = [Head(rows[:classes], torch.zeros(classes)) for classes in TEST.seen_classes]
    class_tasks = torch.arange(TASKS).repeat_interleave(CLASSES_PER_TASK)
    known = set(zip(table.image.tolist(), table.task.tolist(), strict=True))
    run: list[tuple[int, int]] = []

    def encode(image: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        run.extend(zip(image.tolist(), task.tolist(), strict=True))
        return encode_selected(backbone, IMAGES[image], task, bank, Progress("test", 0))

    result = rematch(table, heads, class_tasks, encode, rounds=2)
    questions = 0
    for step, head in enumerate(heads):
        for image in range((step + 1) * PER_TASK):
            task = int(choices[step][image])
            asked = [task]
            while True:
                feature = backbone.encode(IMAGES[image : image + 1], row(bank, task))
                predicted = int(head.logits(feature).argmax())
                task = int(class_tasks[predicted])
                if task in asked or len(asked) > 2:
                    break
                asked.append(task)
            questions += len(asked) - 1
            assert result.predictions[step, image] == predicted
    assert questions == int(result.asked.sum()) > 0
    assert len(run) == len(set(run)) == int(result.passes.sum())
    assert not known & set(run)


def test_selection_matrix_counts_images() -> None:
    chosen = TEST.tasks.clone()
    chosen[:4] = 2
    counts = selection_matrix(TEST, chosen)
    assert counts.sum() == len(TEST.tasks)
    assert counts[0].tolist() == [8, 0, 4, 0, 0]
    assert counts.diag()[1:].tolist() == [PER_TASK] * 4


def test_diverged_layernorms_are_named(backbone: Backbone, progress: Progress) -> None:
    bank = {name: tensor[None] * 1e38 for name, tensor in pretrained_layernorms(backbone).items()}
    with pytest.raises(UserError, match="features under what t1 has tuned are not finite: lower lr"):
        encode_selected(backbone, Images.of_pixels(random_images(2)), torch.zeros(2, dtype=torch.int64), bank, progress)
