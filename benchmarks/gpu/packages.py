"""Which packages are here, before any of them is imported."""

import importlib.util
from collections.abc import Iterable

REQUIRED = {  # by the name that is imported, and the name that is installed
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
OPTIONAL = {  # and what is left out without it
    "matplotlib": "the default benchmark, whose characters it draws",
    "triton": "torch.compile on a GPU",
}


def missing(names: Iterable[str]) -> list[str]:
    """Those of these modules that can't be found."""
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # the package around it is missing; or something stands in its way
        return False
