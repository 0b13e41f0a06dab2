"""Bad params.yaml files: wrong types, absurd numbers, contradictions, tags, damaged bytes."""

import io
from collections.abc import Mapping
from datetime import date
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.parts import names

# Values that are valid on their own. Together they may contradict each other, or fail in a later stage.
RIGHT: dict[str, list[object]] = {
    "setting": ["class", "task"],
    "classes_per_task": [1, 2],
    "first_task_classes": [0, 1, 3],
    "class_order": ["random", "natural", "pycil_1993"],
    "task_classes": [[], [["class 0"], ["class 1", "class 2"]], [["class 0", "class 3"]]],
    "task_order": ["given", "random"],
    "num_tasks": [1, 2],
    "seed": [0, 1, 2**62],
    "order": ["sequential", "joint"],
    "evaluate_on": ["test", "validation"],
    "image_size": [32, 16, 64],
    "normalize": ["pretrained", "none"],
    "features": ["cls", "cls_patch", "cls_6", "last_6"],
    "batch_size": [1, 3, 1_000_000],
    "classifier_batch_size": [1, 3, 1_000_000],
    "tuning": [*names("tuning")],
    "tuning_init": ["previous", "pretrained"],
    "lr": [0.01, 1e-320, 1000.0],
    "epochs": [1, 2],
    "min_crop": [1.0, 0.5, 1e-300],
    "flip": [True, False],
    "optimiser": ["adam", "sgd"],
    "lr_schedule": ["constant", "cosine", "drop"],
    "weight_decay": [0.0, 1e-300, 1.0],
    "head_speed": [1.0, 100.0],
    "tuned_tasks": ["all", "first"],
    "selection": ["query", "oracle", "latest", "average", "first", "first_and_frozen", "all"],
    "fecam": [{"diagonal": 0.01, "off_diagonal": 0.01}, {"diagonal": 1000.0, "off_diagonal": 0.0}],
    "slca": [
        {"samples": samples, "epochs": 1, "lr": lr, "temperature": temperature}
        for samples, lr, temperature in ((1, 1e-320, 1000.0), (3, 1000.0, 0.001))
    ],
    "cls": [{"fisher": "mean"}, {"fisher": "images"}],
    "lda": [{"shrinkage": shrinkage, "per_block": shrinkage == 0} for shrinkage in (0.0, 1.0)],
    "carried_gaussians": [
        {"shrinkage": 0.0, "penalty": 0.0, "per_block": False, "anchor": True},
        {"shrinkage": 1.0, "penalty": 1e6, "per_block": True, "anchor": False},
    ],
    "class_gaussians": [
        {"shrinkage": 1.0, "penalty": 0.0, "per_block": False, "anchor": True, "own": 0.0, "rank": 1},
        {"shrinkage": 0.0, "penalty": 1.0, "per_block": True, "anchor": False, "own": 0.99, "rank": 4096},
    ],
    "average_scale": [1.0, 0.0, 0.75, 10.0],
    "layernorm": [{"norms": norms, "parameters": "both"} for norms in ("all", "attention", "mlp", "final", "last_6")],
    "layerwise": [
        {"norms": "all", "parameters": parameters, "attention": attention, "detach": not attention}
        for parameters, attention in (("both", True), ("scale", False), ("bias", True))
    ],
    "ia3": [{}],
    "lora": [{"rank": rank, "alpha": alpha, "mlp": mlp} for rank, alpha, mlp in ((1, 1e-300, True), (4, 1000, False))],
    "layernorm_ia3": [
        {"layernorm": {"norms": "final", "parameters": parameters}, "ia3": {}} for parameters in ("both", "bias")
    ],
    "layernorm_lora": [
        {"layernorm": {"norms": "all", "parameters": "scale"}, "lora": {"rank": 1, "alpha": alpha, "mlp": True}}
        for alpha in (1e-300, 1000.0)
    ],
    "diff_pruning": [
        {"on": on, "share": share, "penalty": penalty, "change_speed": 1.0, "gate_speed": 10.0}
        for on, share, penalty in (("weights", 1e-300, 0.0), ("layernorms", 1.0, 1e6))
    ],
    "apt": [{"slots": slots, "values": values} for slots, values in ((1, "plain"), (3, "scaled"))],
    "adapter": [{"width": width, "scale": scale} for width, scale in ((1, 1e-300), (8, 1000.0))],
    "l2p": [{"pool": 3, "length": 1, "top": top, "pull": pull} for top, pull in ((1, 0.0), (3, 1000.0))],
    "dualprompt": [
        {"general_blocks": 1, "expert_blocks": blocks, "length": length, "pull": 1.0}
        for blocks, length in ((1, 1), (2, 3))
    ],
    "coda_prompt": [
        {"blocks": blocks, "components": components, "length": 2, "orthogonality": 1.0}
        for blocks, components in ((1, 1), (2, 40))
    ],
    "selector": [*names("selector")],
    "key_method": ["closed_form", "sgd"],
    "key_lr": [0.0025, 1000.0, 1e-40],
    "key_epochs": [1, 3],
    "training": ["two_stage", "single_stage"],
    "classifier": [*names("classifier")],
    "classifier_init": ["fresh", "auxiliary"],
    "classifier_views": [0, 1, 2, 3],
    "classifier_lr": [0.005, 1000.0, 1e-320],
    "classifier_epochs": [1, 4],
    "correction": ["none", "arc", "arc_retention", "rematch"],
    "arc_gamma": [1.0, 1e-300, 1e308],
    "arc_temperature": [1.2, 1.0, 1e308],
    "arc_beta": [0.0, 0.8, 1.0],
    "arc_lr": [0.000005, 0, 1000],
    "rematch_rounds": [1, 3],
}

# Invalid values, most of them only slightly wrong.
WRONG: dict[str, list[object]] = {
    "setting": ["domain", "classes", True],
    "dataset": ["glyps", "../images", ""],
    "data_dir": ["nowhere", "/dev/null", "params.yaml", "a\0b", "\n"],
    "classes_per_task": [3, 10**9, 10**30, 0],
    "task_classes": [[["no such"]], [[]], [["class 0"] * 2], [["class 0"]], "class 0", [[1]]],
    "first_task_classes": [-1, 10**9, True],
    "class_order": ["sorted", "../README.md", "", "a\0b", 1],
    "split": ["theirs", "../README.md", "a\0b"],
    "task_order": ["sorted", True],
    "num_tasks": [3, 0, 10**12],
    "seed": [2**64, -1, 0.5],
    "layernorm": [
        {},
        [],
        "all",
        *({"norms": norms, "parameters": "both"} for norms in ("last_7", "last_0", "last_" + "9" * 5000, "all\n")),
    ],
    "ia3": [{"rank": 1}, None],
    "lora": [
        {},
        *(
            {"rank": rank, "alpha": alpha, "mlp": mlp}
            for rank, alpha, mlp in ((0, 1, True), (4096, 1, True), (10**9, 1, True), (4, 0, True), (4, 1, "yes"))
        ),
    ],
    "layernorm_ia3": [{}, None, {"ia3": {}}, {"layernorm": {"norms": "last_7", "parameters": "both"}, "ia3": {}}],
    "layernorm_lora": [
        {"layernorm": {"norms": "all", "parameters": "both"}, "lora": {"rank": 0, "alpha": 1.0, "mlp": True}}
    ],
    "diff_pruning": [
        {"on": on, "share": share, "penalty": 1.0, "change_speed": 1.0, "gate_speed": speed}
        for on, share, speed in (
            ("weights", 0.0, 1.0),
            ("norms", 0.1, 1.0),
            ("weights", 1.1, 1.0),
            ("weights", 0.1, 0.0),
        )
    ],
    "apt": [
        {},
        4,
        {"slots": 0, "values": "plain"},
        {"slots": 10**30, "values": "plain"},
        {"slots": 4, "values": "all"},
    ],
    "adapter": [{}, {"width": 0, "scale": 0.1}, {"width": 4, "scale": 0.0}, {"width": 10**30, "scale": 1.0}],
    "l2p": [{"pool": 3, "length": 1, "top": 4, "pull": 0.1}, {"pool": 0, "length": 1, "top": 1, "pull": 0.1}],
    "dualprompt": [{"general_blocks": 1, "expert_blocks": 10**6, "length": 1, "pull": 1.0}],
    "coda_prompt": [{"blocks": 1, "components": 1, "length": 3, "orthogonality": 0.0}],
    "optimiser": ["adamw", True],
    "lr_schedule": ["step"],
    "weight_decay": [-1, 2.0],
    "head_speed": [0, 1e300],
    "tuned_tasks": ["last", 1],
    "evaluate_on": ["train"],
    "backbone": ["vit_tiny_patch16_224.no_such_tag", "resnet18", "hf-hub:a/b", "glyph_vit "],
    "backbone_weights": ["nowhere.pth", "params.yaml", "images", "a\0b"],
    "image_size": [33, 7, 0, 5000, 10**30],
    "features": ["last_0", "last_7", "cls_0", "cls_7", "last_", "patch", 4, "last_" + "9" * 5000],
    "batch_size": [10**30, 0, 1.5],
    "classifier_batch_size": [10**30, 0, 1.5],
    "lr": [1001.0, 1e308, -1, 0, "0.1"],
    "epochs": [0, 10**7, 1.0, True],
    "min_crop": [1.0000001, 0],
    "flip": [1, "yes"],
    "selector": ["keys", "Key"],
    "fecam": [{"diagonal": 0.0, "off_diagonal": 0.0}, {"diagonal": 1.0, "off_diagonal": 1.1}, {"diagonal": 1}, []],
    "slca": [{"samples": 0, "epochs": 5, "lr": 0.01, "temperature": 0.1}, {"samples": 256}, "published"],
    "cls": [{}, {"fisher": "sum"}],
    "lda": [{"shrinkage": 1.1, "per_block": False}, {"shrinkage": 0.1, "per_block": 2}, {"shrink": 0.1}],
    "carried_gaussians": [{"shrinkage": 0.1, "penalty": -1.0, "per_block": False, "anchor": False}],
    "class_gaussians": [
        {"shrinkage": 0.5, "penalty": 1.0, "per_block": True, "anchor": False, "own": 0.6, "rank": 16},
        {"shrinkage": 0.0, "penalty": 1.0, "per_block": True, "anchor": False, "own": 1.0, "rank": 16},
        {"shrinkage": 0.1, "penalty": 1.0, "per_block": True, "anchor": False, "own": 0.1, "rank": 0},
    ],
    "average_scale": [-0.1, 11, "1", True],
    "key_epochs": [0],
    "classifier": ["svm"],
    "classifier_views": [-1, 10**6],
    "classifier_lr": [1e30, 0],
    "arc_gamma": [0],
    "arc_temperature": [0.5],
    "arc_beta": [1.1],
    "arc_lr": [1e308, -1],
    "rematch_rounds": [0, 10**7],
    "tasks": [
        {"t1": {"prev": "t0"}, "t2": {"prev": "t0"}},
        {"t1; touch pwned": {"prev": "t0"}},
        {"../../t1": {"prev": "t0"}},
        {"t1": {"prev": "$(touch pwned)"}},
        {"t1": None},
        {},
        [],
    ],
}

# Pieces of YAML on which a loader may crash, run code or loop for ever.
PIECES = [
    b"seed: !!python/object/apply:os.system ['touch pwned']\n",
    b"lr: !!python/name:os.system\n",
    b"lr: !!timestamp soon\n",
    b"lr: !!bool maybe\n",
    b"lr: !!int ''\n",
    b"lr: 2001-99-99\n",
    b"seed: " + b"9" * 5000 + b"\n",
    b"task_classes: &a [*a]\n",
    b"tasks: &a {t1: *a}\n",
    b"task_classes: " + b"[" * 400 + b"\n",
    b"? [a, b]\n: 1\n",
    b"1: 2\n",
    b"null: 2\n",
    b'dataset: "\\ud800"\n',
    b'data_dir: "\\e[2J\\n\\u202e"\n',
    b"<<: {lr: 1}\n",
    b"<<: 1\n",
    b"---\nlr: 1\n",
    b"%YAML 9.9\n",
    b"lr: 0.1\nlr: 0.2\n",
    b"lr: *nobody\n",
    b"\t\n",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%b]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghij")
    + b"task_classes: *j\n",
]

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([date(2026, 1, 1), 10**400, "x" * 5000, "1e-3", "$(touch pwned)", "; touch pwned", "\x1b[2J"])
)
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SCALARS, inner, max_size=3), max_leaves=6
)


def _of(table: Mapping[str, list[object]]) -> st.SearchStrategy[tuple[str, object]]:
    return st.sampled_from([(name, value) for name, values in table.items() for value in values])


def right() -> st.SearchStrategy[dict[str, object]]:
    """Values for some parameters, each valid on its own."""
    return st.lists(_of(RIGHT), min_size=1, max_size=12).map(dict)


def wrong() -> st.SearchStrategy[dict[str, object]]:
    """The same, with one more that is wrong: an unknown name, or any value at all."""
    anything = st.tuples(st.sampled_from([*RIGHT, "tasks", "dataset", "data_dir", "backbone"]), _ANYTHING)
    stranger = st.tuples(st.text(max_size=10), _ANYTHING)
    return st.builds(lambda good, bad: {**good, bad[0]: bad[1]}, right(), _of(WRONG) | _of(WRONG) | anything | stranger)


def files(base: Mapping[str, object]) -> st.SearchStrategy[bytes]:
    """Whole params.yaml files: `base` with other values, valid or not; or with damaged text."""
    whole = written(base)

    def rewritten(new: dict[str, object]) -> bytes:
        return written({**base, **new})

    def damaged(where: int, piece: bytes, kept: int) -> bytes:
        return whole[:where] + piece + whole[where + kept :]

    place = st.integers(0, len(whole))
    line = st.sampled_from([0, *(index + 1 for index, byte in enumerate(whole) if byte == ord("\n"))])
    piece = st.sampled_from(PIECES)
    cut = st.builds(damaged, place, st.binary(max_size=4), st.integers(0, 40))
    pierced = st.builds(damaged, line, piece, st.just(0))
    kinds = [right().map(rewritten)] * 3 + [wrong().map(rewritten)] * 2 + [pierced, cut]
    return st.sampled_from(kinds).flatmap(lambda kind: kind)


def written(params: Mapping[Any, object]) -> bytes:
    """A mapping as YAML."""
    text = io.BytesIO()
    YAML(typ="safe", pure=True).dump(dict(params), text)
    return text.getvalue()
