"""Writes the finished learner in one of the forms, with its model card and its origin."""

from pathlib import Path

from pipeline.export import onnx_folder, timm_folder
from pipeline.export.card import card
from pipeline.export.command import Form
from pipeline.export.folder import new_folder
from pipeline.export.origin import image_counts, metrics, provenance
from pipeline.inference.manifest import read_manifest
from pipeline.prediction import finished as finished_learner
from pipeline.prediction import saved
from pipeline.store import artifacts


def write_folder(folder: Path, form: Form) -> int:
    """Write the learner of the working folder; the bytes written.

    Raises UserError if there is none, if the form cannot hold it, or if the folder is not empty.
    """
    manifest = read_manifest()
    with new_folder(folder) as inside:
        finished = finished_learner.from_stages(manifest)
        numbers, origin = metrics(), provenance(manifest)
        if form == "learner":
            saved.save(inside, finished, metrics=numbers, provenance=origin)
        else:
            writer = timm_folder if form == "timm" else onnx_folder
            writer.write(inside, finished, finished.learner(), folder)
        artifacts.save_plain_json(inside / "origin.json", {"metrics": numbers, **origin})
        text = card(form, finished, metrics=numbers, provenance=origin, counts=image_counts())
        artifacts.save_bytes(inside / "README.md", text.encode())
        return sum(file.stat().st_size for file in inside.iterdir())
