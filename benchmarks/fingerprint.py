"""Digests of all values that the pipeline computes: python -m benchmarks.fingerprint FILE [--against FILE].

A refactor must not change a number. This runs every variant, selector and classifier on a tiny ViT and a tiny data set,
and writes one SHA-256 per variant and group of results. Values are hashed, not files: names of files, their metadata
and the order of tensors in them may change. `--against` compares with an earlier FILE and exits with 1 if a value
differs. The digests are valid for one machine and one version of torch.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from harness.parameters import set_params
from harness.stage_repository import make_repository as make_tiny_repository
from harness.stage_repository import run_all
from pipeline.classification.classifier import find_classifier
from pipeline.parts import names
from pipeline.store import artifacts

NUM_TASKS = 3
# Where the tensors of each group of results lie.
GROUPS = {
    "images": "data/train/*",
    "queries": "artifacts/queries/**/*",
    "keys": "artifacts/keys/*",
    "selectors": "artifacts/selectors/*",
    "tuned": "artifacts/banks/*",
    "auxiliary heads": "artifacts/auxiliary_heads/*",
    "features": "artifacts/features/*",
    "heads": "artifacts/heads/*",
    "rematch": "artifacts/rematch*",
}
AVERAGE: dict[str, object] = {"selection": "average"}

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "layerwise": {"tuning": "layerwise"},
    "layerwise, attention": {"tuning": "layerwise", "layerwise.attention": True},
    "layerwise, detach": {"tuning": "layerwise", "layerwise.detach": True},
    "layerwise, last block, scale": {
        "tuning": "layerwise",
        "layerwise.norms": "last_1",
        "layerwise.parameters": "scale",
    },
    "attention norms": {"layernorm.norms": "attention"},
    "final norm, bias": {"layernorm.norms": "final", "layernorm.parameters": "bias"},
    "pretrained start": {"tuning_init": "pretrained"},
    "average": AVERAGE,
    "average, carried_gaussians": AVERAGE | {"classifier": "carried_gaussians"},
    "latest": {"selection": "latest"},
    "latest, carried_gaussians": {"selection": "latest", "classifier": "carried_gaussians"},
    "latest, full": {"selection": "latest", "tuning": "full", "lr": 0.001},
    "apt": {"tuning": "apt"},
    "diff_pruning": {"tuning": "diff_pruning", "lr": 0.001},
    "average, diff_pruning": AVERAGE | {"tuning": "diff_pruning", "diff_pruning.on": "layernorms"},
    "none": {"tuning": "none"},
    "none, entropy": {"tuning": "none", "selector": "entropy"},
    "oracle": {"selection": "oracle"},
    "rematch": {"correction": "rematch"},
    "rematch, lda, ridge_projected": {"correction": "rematch", "selector": "lda", "classifier": "ridge_projected"},
    "arc": {"correction": "arc"},
    "arc_retention": {"correction": "arc_retention", "arc_beta": 0.1, "arc_lr": 0.1},
    "joint": {"order": "joint", "selection": "latest"},
    "single_stage": {"training": "single_stage"},
    "auxiliary start": {"classifier_init": "auxiliary"},
    "sgd keys": {"key_method": "sgd"},
    "two views": {"classifier_views": 2, "min_crop": 0.5, "flip": True},
    "two views, layerwise": {"tuning": "layerwise", "classifier_views": 2, "min_crop": 0.5},
    "two views, entropy": {"selector": "entropy", "classifier_views": 2, "min_crop": 0.5},
    "two views, average": AVERAGE | {"classifier": "class_gaussians", "classifier_views": 2, "flip": True},
    "validation": {"evaluate_on": "validation"},
    "no normalisation": {"normalize": "none"},
    "cls_patch": {"features": "cls_patch"},
    "cls_2": {"features": "cls_2"},
    "last_2, average, carried_gaussians": AVERAGE | {"classifier": "carried_gaussians", "features": "last_2"},
    "last_2, layerwise, two views": {"tuning": "layerwise", "features": "last_2", "classifier_views": 2, "flip": True},
    "last_2, entropy, rematch": {"features": "last_2", "selector": "entropy", "correction": "rematch"},
    **{f"selector {name}": {"selector": name} for name in names("selector")},
    "average, class_gaussians": AVERAGE | {"classifier": "class_gaussians"},
    "last_2, average, class_gaussians": AVERAGE
    | {"classifier": "class_gaussians", "features": "last_2", "class_gaussians.anchor": True},
    **{
        f"classifier {name}": {"classifier": name}
        for name in names("classifier")
        if not find_classifier(name).needs_one_model
    },
}


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 of some digests in any order. 16 digits suffice to tell a few thousand values apart."""
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]


def value_digest(tensor: Tensor) -> bytes:
    """SHA-256 of a tensor's type, shape and numbers."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def fingerprint() -> dict[str, str]:
    """The digest of each group of results in the working folder's repository."""
    found = {}
    for group, pattern in GROUPS.items():
        files = sorted(Path().glob(pattern))
        tensors = [tensor for file in files if file.is_file() for tensor in load_file(file).values()]
        found[group] = digest_of(map(value_digest, tensors))
    evaluation = artifacts.load_json(artifacts.EVALUATION)
    for what in ("metrics", "matrices", "selection", "key_similarity"):
        found[what] = digest_of([json.dumps(evaluation[what], sort_keys=True).encode()])
    return found


def run_variant(changes: Mapping[str, object]) -> dict[str, str]:
    """Run every stage with these parameters, in a new folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            make_tiny_repository(Path(folder))
            set_params(Path("params.yaml"), **changes)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run_all(NUM_TASKS)
            return fingerprint()
        finally:
            os.chdir(before)


def differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Variant and group of each value that has changed or that only one side has."""
    return [
        (variant, group)
        for variant in sorted(before.keys() | now.keys())
        for group in sorted(before.get(variant, {}).keys() | now.get(variant, {}).keys())
        if before.get(variant, {}).get(group) != now.get(variant, {}).get(group)
    ]


def main(
    file: Annotated[Path, typer.Argument(help="Where to write the digests, as JSON.")],
    against: Annotated[Path | None, typer.Option(help="Digests of an earlier commit to compare with.")] = None,
    only: Annotated[str, typer.Option(help="Run only the variants whose name contains this text.")] = "",
) -> None:
    """Write the digest of every value that each variant computes."""
    torch.set_num_threads(1)
    console = Console()
    wanted = {name: changes for name, changes in VARIANTS.items() if only in name}
    quiet = Console(stderr=True)
    now = {name: run_variant(changes) for name, changes in track(wanted.items(), "variants", console=quiet)}
    file.write_text(json.dumps(now, indent=1) + "\n")
    console.print(
        f"{len(now)} variants, {sum(map(len, now.values()))} digests: {digest_of([json.dumps(now).encode()])}"
    )
    if against:
        before = {name: groups for name, groups in json.loads(against.read_text()).items() if only in name}
        table = Table("variant", "differs in")
        for variant, group in differences(before, now):
            table.add_row(variant, group)
        console.print(table if table.row_count else "every value is as before")
        raise typer.Exit(int(table.row_count > 0))


if __name__ == "__main__":
    typer.run(main)
