"""Selectors learn task by task without storing samples: against their definitions and on separable tasks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional

from harness.parameters import set_params
from harness.stage_order import run_stages
from pipeline.classification.classifier import TaskFeatures, Training, find_classifier
from pipeline.layout import Layout
from pipeline.linear import gaussians
from pipeline.parts import names
from pipeline.progress import Progress
from pipeline.selection.key import closed_form_key
from pipeline.selection.selector import TaskQueries, find_selector
from pipeline.selection.selectors.gmm import COMPONENTS
from pipeline.selection.state import State, best_of_tasks, likelihood_of_tasks, num_tasks
from pipeline.store import artifacts

DIM, TASKS, CLASSES = 12, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(TASKS, CLASSES, DIM, generator=GENERATOR)


def task_data(task: int, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Queries and labels of a task: Gaussians around its classes' centres."""
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(100 * seed + task))
    return CENTRES[task][labels] + noise, labels


def learn_task(name: str, state: State, queries: Tensor, labels: Tensor, generator: torch.Generator) -> State:
    return find_selector(name).learn(state, TaskQueries(queries, labels, closed_form_key(queries)), generator)


def scores_of(name: str, state: State, queries: Tensor) -> Tensor:
    return find_selector(name).scores(state, queries)


def learn(name: str, per_class: int = 20, tasks: int = TASKS) -> State:
    state: State = {}
    for task in range(tasks):
        queries, labels = task_data(task, per_class, seed=0)
        state = learn_task(name, state, queries, labels, torch.Generator().manual_seed(task))
    return state


TEST = [task_data(task, 25, seed=1)[0] for task in range(TASKS)]


@pytest.mark.parametrize("name", names("selector"))
def test_names_most_tasks_of_separable_data_and_scores_only_those_known(name: str) -> None:
    for tasks in (1, 2, TASKS):
        state = learn(name, tasks=tasks)
        scores = scores_of(name, state, torch.cat(TEST[:tasks]))
        assert scores.shape == (75 * tasks, tasks)
        assert num_tasks(state) == tasks
        right = scores.argmax(1) == torch.arange(tasks).repeat_interleave(75)
        assert right.float().mean() > (0.6 if name in ("key", "entropy") else 0.75)


@pytest.mark.parametrize("name", names("selector"))
def test_is_deterministic_and_leaves_earlier_states_alone(name: str) -> None:
    first = learn(name, tasks=2)
    copy = {key: value.clone() for key, value in first.items()}
    second = learn(name, tasks=2)
    learn_task(name, first, *task_data(2, 20, seed=0), torch.Generator().manual_seed(2))
    assert all(torch.equal(first[key], copy[key]) and torch.equal(second[key], copy[key]) for key in copy)


@pytest.mark.parametrize("name", [name for name in names("selector") if name != "fuzzy_art"])
def test_keeps_no_samples(name: str) -> None:
    """Ten times as many images do not enlarge the state (Fuzzy ART's categories may grow, up to a bound)."""
    few, many = (sum(t.numel() for t in learn(name, per_class).values()) for per_class in (20, 200))
    assert few == many


def test_class_gaussians_are_scikit_learns_discriminant() -> None:
    data = [task_data(task, 20, seed=0) for task in range(TASKS)]
    queries = torch.cat([queries for queries, _ in data])
    labels = torch.cat([labels + CLASSES * task for task, (_, labels) in enumerate(data)])
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=gaussians.SHRINKAGE).fit(queries, labels)
    posterior = reference.predict_proba(TEST[1]).reshape(-1, TASKS, CLASSES).sum(2)
    np.testing.assert_allclose(scores_of("lda", learn("lda"), TEST[1]).softmax(1), posterior, atol=1e-4)


def test_mixture_likelihood_is_scikit_learns() -> None:
    state = learn("gmm")
    directions = functional.normalize(TEST[2], dim=1).double()
    for task in range(TASKS):
        rows = state["task"] == task
        model = GaussianMixture(COMPONENTS, covariance_type="diag")
        model.means_, model.covariances_ = state["means"][rows].numpy(), state["variances"][rows].numpy()
        model.weights_ = state["log_weights"][rows].exp().numpy()
        model.precisions_cholesky_ = 1 / np.sqrt(model.covariances_)
        expected = model.score_samples(directions) + DIM / 2 * np.log(2 * np.pi)
        np.testing.assert_allclose(scores_of("gmm", state, TEST[2])[:, task], expected, rtol=1e-6)


def test_ridge_does_not_depend_on_the_order_of_the_tasks() -> None:
    forward = learn("ridge")
    backward: State = {}
    for task in reversed(range(TASKS)):
        backward = learn_task("ridge", backward, *task_data(task, 20, seed=0), GENERATOR)
    torch.testing.assert_close(
        scores_of("ridge", forward, TEST[0]), scores_of("ridge", backward, TEST[0]).flip(1), atol=1e-5, rtol=1e-4
    )


def test_fuzzy_art_recodes_a_category_by_the_fuzzy_and() -> None:
    """With fast learning, a category is the minimum of its codes, which is a box around them."""
    queries = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]])
    state = learn_task("fuzzy_art", {}, queries, torch.zeros(3, dtype=torch.int64), GENERATOR)
    low, high = state["low"], state["high"]
    codes = (queries - low) / (high - low)
    codes = torch.cat([codes, 1 - codes], dim=1)
    assert len(state["categories"]) == 2
    torch.testing.assert_close(state["categories"][0], torch.minimum(codes[0], codes[2]))
    torch.testing.assert_close(state["categories"][1], codes[1])


def test_lda_shrinks_each_vector_of_a_query_to_its_own_variance() -> None:
    """It is as if each vector had been brought to one variance first."""
    scale = torch.tensor([1.0] * 6 + [50.0] * 6)
    state: State = {}
    for task in range(TASKS):
        queries, labels = task_data(task, 20, seed=0)
        of_task = TaskQueries(queries * scale, labels, closed_form_key(queries), 2)
        state = find_selector("lda").learn(state, of_task, torch.Generator().manual_seed(task))
    asked = torch.cat([task_data(task, 20, seed=1)[0] for task in range(TASKS)]) * scale
    shared = gaussians.gaussians_of(state, DIM)
    variances = (shared.scatter.diag() / (shared.counts.sum())).view(2, 6).mean(1)
    even = variances.sqrt().repeat_interleave(6)
    brought = gaussians.Gaussians(shared.counts, shared.means / even, shared.scatter / (even[:, None] * even))
    head = gaussians.linear_discriminant(brought, gaussians.SHRINKAGE)
    expected = likelihood_of_tasks(head.logits((asked / even).float()), state["task"])
    found = scores_of("lda", state, asked)
    torch.testing.assert_close(found.softmax(1), expected.softmax(1), atol=1e-4, rtol=1e-3)
    plain = find_selector("lda").scores({name: tensor for name, tensor in state.items() if name != "vectors"}, asked)
    assert not torch.allclose(found.softmax(1), plain.softmax(1), atol=1e-2)


@pytest.mark.parametrize("name", [name for name in names("selector") if find_selector(name).rows])
@pytest.mark.parametrize("vectors", [1, 2])
def test_the_rows_of_a_selector_give_its_own_scores(name: str, vectors: int) -> None:
    """As an exported graph reads them; also where the vectors of a query have very different variances."""
    scale = torch.tensor([1.0] * 6 + [50.0] * 6)
    state: State = {}
    for task in range(TASKS):
        queries, labels = task_data(task, 20, seed=0)
        of_task = TaskQueries(queries * scale, labels, closed_form_key(queries * scale), vectors)
        state = find_selector(name).learn(state, of_task, torch.Generator().manual_seed(task))
    asked = torch.cat(TEST) * scale
    linear = find_selector(name).rows
    assert linear
    rows = linear(state)
    inputs = functional.normalize(asked, dim=1) if rows.directions else asked
    scores = functional.linear(inputs, rows.weight, rows.bias)
    found = likelihood_of_tasks(scores, rows.task) if rows.sums else best_of_tasks(scores, rows.task)
    torch.testing.assert_close(found, scores_of(name, state, asked), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("tiny_finished")
@pytest.mark.parametrize("selector", [name for name in names("selector") if name not in ("key", "entropy")])
def test_a_selector_does_not_depend_on_how_keys_are_computed(selector: str) -> None:
    """Those that do not read them: what a trained key draws is no business of theirs."""
    choices: list[dict[str, object]] = [
        {"key_method": "closed_form"},
        {"key_method": "sgd"},
        {"key_method": "sgd", "key_epochs": 1},
    ]
    found = []
    for changes in choices:
        set_params(Path("params.yaml"), selector=selector, **changes)
        run_stages(3, {"keys"})
        keys = artifacts.load_tensors(artifacts.keys_file("t3"))["keys"]
        found.append((keys, artifacts.load_tensors(artifacts.selector_file("t3"))))
    (first, state), *others = found
    for keys, other in others:
        assert not torch.equal(keys, first)
        assert other.keys() == state.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_samples_are_of_one_shrunk_covariance_whatever_vectors_a_query_has() -> None:
    """As documented, and as measured in reports/benchmarks/beyond.md."""
    queries, labels = task_data(0, 20, seed=0)
    states = [
        find_selector("perceptron").learn(
            {}, TaskQueries(queries, labels, queries[0], vectors), torch.Generator().manual_seed(0)
        )
        for vectors in (1, 2)
    ]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    heads = []
    for layout in (Layout(DIM), Layout(DIM // 2, 2)):
        task = TaskFeatures(queries[None], queries, None, labels, layout=layout)
        training = Training(16, 0.01, 2, None, torch.Generator().manual_seed(0), Progress("test", 0))
        heads.append(find_classifier("aligned_softmax").learn({}, task, training)[1])
    assert torch.equal(heads[0].weight, heads[1].weight)
