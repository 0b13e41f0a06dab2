"""Parameters for tests that do not depend on what an experiment has left in the working tree's params.yaml."""

from pathlib import Path

from ruamel.yaml import YAML

PLAIN: dict[str, object] = {
    "setting": "class",
    "dataset": "glyphs",
    "data_dir": "images",
    "split": "own",
    "classes_per_task": 10,
    "first_task_classes": 0,
    "class_order": "random",
    "task_classes": [],
    "task_order": "given",
    "seed": 0,
    "order": "sequential",
    "evaluate_on": "test",
    "backbone": "glyph_vit",
    "backbone_weights": "backbones/pretrained",
    "image_size": 32,
    "normalize": "pretrained",
    "features": "cls",
    "batch_size": 64,
    "tuning": "layernorm",
    "tuning_init": "previous",
    "tuned_tasks": "all",
    "lr": 0.01,
    "min_crop": 1.0,
    "flip": False,
    "optimiser": "adam",
    "lr_schedule": "constant",
    "weight_decay": 0.0,
    "head_speed": 1.0,
    "selection": "query",
    "selector": "key",
    "average_scale": 1.0,
    "key_method": "closed_form",
    "key_lr": 0.0025,
    "key_epochs": 5,
    "training": "two_stage",
    "classifier": "softmax",
    "classifier_init": "fresh",
    "classifier_views": 0,
    "classifier_lr": 0.005,
    "classifier_batch_size": 64,
    "correction": "none",
    "arc_gamma": 1.0,
    "arc_temperature": 1.2,
    "arc_beta": 0.8,
    "arc_lr": 0.000005,
    "rematch_rounds": 3,
    "layernorm": {"norms": "all", "parameters": "both"},
    "layerwise": {"norms": "all", "parameters": "both", "attention": False, "detach": False},
    "ia3": {},
    "lora": {"rank": 4, "alpha": 4.0, "mlp": False},
    "layernorm_ia3": {"layernorm": {"norms": "all", "parameters": "both"}, "ia3": {}},
    "layernorm_lora": {
        "layernorm": {"norms": "all", "parameters": "both"},
        "lora": {"rank": 4, "alpha": 4.0, "mlp": False},
    },
    "diff_pruning": {"on": "weights", "share": 0.005, "penalty": 10.0, "change_speed": 0.2, "gate_speed": 100.0},
    "apt": {"slots": 4, "values": "scaled"},
    "adapter": {"width": 4, "scale": 0.1},
    "l2p": {"pool": 4, "length": 2, "top": 2, "pull": 0.1},
    "dualprompt": {"general_blocks": 1, "expert_blocks": 1, "length": 2, "pull": 1.0},
    "coda_prompt": {"blocks": 2, "components": 2, "length": 4, "orthogonality": 0.0},
    "synqt": {"form": "slim", "queries": 1, "feature": "added"},
    "fecam": {"diagonal": 1.0, "off_diagonal": 0.0},
    "slca": {"samples": 64, "epochs": 5, "lr": 0.01, "temperature": 0.1},
    "cls": {"fisher": "mean"},
    "lda": {"shrinkage": 0.1, "per_block": False},
    "carried_gaussians": {"shrinkage": 0.1, "penalty": 1.0, "per_block": False, "anchor": False},
    "class_gaussians": {
        "shrinkage": 0.2,
        "penalty": 1.0,
        "per_block": True,
        "anchor": False,
        "own": 0.1,
        "rank": 16,
    },
}


def set_params(path: Path, **changes: object) -> None:
    """Change a params.yaml, but keep its comments. `layernorm.norms` means one option of a block."""
    yaml = YAML()
    yaml.width = 120
    params = yaml.load(path)
    for key, value in changes.items():
        block, _, option = key.partition(".")
        if option:
            params[block][option] = value
        elif isinstance(value, dict):
            params.setdefault(block, {}).update(value)
        else:
            params[block] = value
    yaml.dump(params, path)
