"""A finished learner with everything that its users need, from the stages' files in the working folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.data.value_range import Ranges
from pipeline.evaluation.settings import numbered
from pipeline.inference import learner
from pipeline.inference.feature_table import FeatureTable
from pipeline.inference.learner import Learner, Parts
from pipeline.inference.manifest import Manifest, Settings
from pipeline.linear.gaussians import Gaussians
from pipeline.prediction.novelty import Novelty, Threshold, choose_threshold, novelty_of, scores_of
from pipeline.store import artifacts
from pipeline.store.cumulative import part
from pipeline.tasks import task_name


@dataclass(frozen=True)
class Finished:
    """A learner, what it is made of, and what its answers mean."""

    settings: Settings
    tasks: Sequence[Sequence[str]]  # the classes of each task
    parts: Parts
    ranges: Ranges  # of pictures of more than 8 bits, by kind
    novelty: Novelty | None
    threshold: Threshold | None
    domains: Sequence[str] = ()  # of each task, if tasks are domains
    array_size: Sequence[int] | None = None  # height and width, if training saw small arrays of one size

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the logits, each once."""
        return list(numbered(self.tasks)[0])

    def learner(self) -> Learner:
        """The learner, ready to predict."""
        return learner.make_learner(self.settings, self.tasks, self.parts)


def from_stages(manifest: Manifest) -> Finished:
    """The learner of this manifest, from the files in the working folder. Raises UserError as load_learner does."""
    settings, tasks = manifest.settings, manifest.tasks
    parts = learner.load_parts(settings, tasks)
    last = task_name(settings.num_tasks - 1)
    table = FeatureTable.from_tensors(artifacts.load_tensors(artifacts.features_file(last)))
    features = table.after(settings.num_tasks - 1, torch.arange(table.rows.shape[1]))
    novelty = _novelty(artifacts.load_tensors(artifacts.heads_file(last)), features.shape[1])
    scores = scores_of(novelty, features, parts.head.logits(features))
    threshold = None
    if artifacts.TEST.exists():  # `dvc pull` may have left it out
        threshold = choose_threshold(scores, artifacts.load_tensors(artifacts.TEST)["labels"][: len(features)])
    facts = artifacts.load_json(artifacts.RAW_CLASSES) if artifacts.RAW_CLASSES.exists() else {}
    return Finished(
        settings,
        tasks,
        parts,
        facts.get("ranges") or {},
        novelty,
        threshold,
        manifest.domains or (),
        manifest.array_size,
    )


def _novelty(heads: Mapping[str, torch.Tensor], dim: int) -> Novelty | None:
    """From the class Gaussians of the head itself or of the discriminant that every run also has."""
    for row in ("tuned", "tuned_lda"):
        state = part(heads, f"{row}.state.")
        if {"counts", "means", "scatter"} <= state.keys() and state["means"].shape[1] == dim:
            return novelty_of(Gaussians(state["counts"], state["means"], state["scatter"]))
    return None
