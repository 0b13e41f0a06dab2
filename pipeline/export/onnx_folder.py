"""A learner as ONNX: one graph from pixels to probabilities, with both passes where a task is selected."""

import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.export.card import preparation
from pipeline.export.graph import OneModel, TwoPasses
from pipeline.export.one_model import check_plain, check_same, samples, single
from pipeline.inference.learner import Learner
from pipeline.inference.selecting import SelectingEncoder
from pipeline.prediction.finished import Finished
from pipeline.store import artifacts

FORM = "an ONNX graph"
_OPSET = 18


def write(folder: Path, finished: Finished, learner: Learner, target: Path) -> None:
    """Write model.onnx and classes.json into `folder`, run the graph, and compare. target: the name in messages.

    Raises UserError for a learner that a graph cannot hold.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--format onnx needs {package}: `pip install -c constraints.txt '.[export]'`")
    import onnx_ir  # noqa: PLC0415  (an extra)

    graph = _graph(finished, learner).eval()
    size = finished.settings.image_size
    pixels = samples(size)
    names = ["logits", "probabilities", *(["task"] if isinstance(graph, TwoPasses) else [])]
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()), _quiet():
        program = torch.onnx.export(
            graph,
            (pixels[:3],),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
        assert program is not None
        # Both passes use the frozen weights, which the exporter stores once for each.
        onnx_ir.passes.common.DeduplicateInitializersPass(size_limit=2**40)(program.model)
        program.save(folder / "model.onnx", external_data=False)
    artifacts.save_plain_json(
        folder / "classes.json",
        {
            "classes": finished.classes,
            "tasks": [list(of_task) for of_task in finished.tasks],
            "input": {"pixels": f"uint8 [N, {size}, {size}, 3], RGB. {preparation(finished)}"},
            "outputs": names,
        },
    )
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["probabilities"], {"pixels": pixels.numpy()})[0])
    check_same(learner.predict(Images.of_pixels(pixels)).logits.softmax(1), found, target, FORM)


def _only_layernorms(encoder: SelectingEncoder) -> bool:
    """Whether the tasks differ in parameters of the model's own LayerNorms and in nothing else."""
    model = encoder.frozen.model
    modules, own = dict(model.named_modules()), dict(model.named_parameters())
    places = (name.rpartition(".")[0] for name in encoder.bank)
    return (
        encoder.tuned.model is model
        and encoder.bank.keys() <= own.keys()
        and all(isinstance(modules[place], nn.LayerNorm) for place in places)
    )


def _graph(finished: Finished, learner: Learner) -> nn.Module:
    encoder = check_plain(finished, learner, FORM, hidden=True)
    if not learner.method.chooses:
        backbone, tuned = single(encoder, finished, FORM)
        return OneModel(backbone, tuned, finished.parts.head)
    if not _only_layernorms(encoder):
        raise UserError(
            f"{FORM} holds the LayerNorms of each task, and this learner has tuning: {finished.parts.bank.tuning}: "
            "choose --format learner"
        )
    rows = learner.method.selector.rows
    if rows is None:
        raise UserError(
            f"selector: {finished.settings.selector} is not linear, so {FORM} cannot hold it: choose --format learner"
        )
    return TwoPasses(encoder, rows(encoder.choice.state), finished.parts.head)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The exporter's messages are about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
