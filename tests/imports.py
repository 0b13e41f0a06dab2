"""Which of the repository's modules a module imports, directly or through others."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported_files(path: Path) -> set[Path]:
    """Files of the repository that running `path` reads, itself included, relative to the root.

    A package's __init__.py counts where it holds more than a docstring.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [target for name in _imported_names(file) for target in _files_of(name)]
    return found


def _imported_names(file: Path) -> set[str]:
    names = {".".join(file.with_suffix("").parts)}  # its own name: the packages above it are imported too
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _files_of(name: str) -> list[Path]:
    parts = name.split(".")
    packages = [Path(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    with_code = [p for p in packages if (ROOT / p).exists() and len(ast.parse((ROOT / p).read_text()).body) > 1]
    module = Path(*parts).with_suffix(".py")
    return with_code + ([module] if (ROOT / module).exists() else [])
