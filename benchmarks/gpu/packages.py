"""Finds missing packages before any of them is imported."""

import importlib.util
from collections.abc import Iterable

REQUIRED = {  # name to import -> name to install
    "numpy": "numpy",
    "PIL": "pillow",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "rich": "rich",
    "ruamel.yaml": "ruamel.yaml",
    "safetensors": "safetensors",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "typer": "typer",
}
OPTIONAL = {  # name -> what is left out without it
    "matplotlib": "the default benchmark, whose characters it draws",
    "triton": "torch.compile on a GPU",
}


def missing(names: Iterable[str]) -> list[str]:
    """The modules that cannot be found."""
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent package is missing, or something hides it
        return False
