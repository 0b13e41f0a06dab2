"""Looks for what would go wrong, before it does: `python -m pipeline doctor`."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import REPAIR, UserError
from pipeline.findings import Finding
from pipeline.params import PARAMS_FILE, PIPELINE_FILE, declared, read_mapping
from pipeline.storage import check_storage
from pipeline.tasks import check_chain

PINS = Path("constraints.txt")
RWLOCK = Path(".dvc/tmp/rwlock")
OUTPUTS = (Path("data"), Path("artifacts"), Path("reports"))
_SHOWN = ("dvc", "torch", "torchvision", "timm")
_ROOM = 2**30  # bytes that should be free
_UNFINISHED = re.compile(r"\..+\.(\d+)")  # pipeline.artifacts writes .NAME.PID before NAME


def examine() -> Iterator[Finding]:
    """All checks, the long one last."""
    yield from check_environment()
    yield check_versions()
    yield check_parameters()
    yield check_device()
    yield from check_leftovers()
    cache = cache_folder()
    yield from check_room(cache)
    yield from check_storage(cache)


def check_environment() -> Iterator[Finding]:
    """What the stages call by its name: python, dvc, git."""
    here = Path(sys.executable).parent
    activate = f"`source {here}/activate`"
    prefix = _output("python", "-c", "import sys; print(sys.prefix)")
    yield Finding(prefix == sys.prefix, f"python: of {prefix or 'no environment on the PATH'}", activate)
    dvc = shutil.which("dvc")
    yield Finding(dvc is not None and Path(dvc).parent == here, f"dvc: {dvc or 'not on the PATH'}", activate)
    root = _output("git", "rev-parse", "--show-toplevel")
    yield Finding(root is not None, f"git: {root or 'no repository here, or no git'}", "install git, work in a clone")


def _output(*command: str) -> str | None:
    """What a command prints; None where it fails or is not there."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def check_versions() -> Finding:
    """Installed packages against the pins."""
    remedy = "make install: other versions may round differently"
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", PINS.read_text(), re.MULTILINE)) if PINS.exists() else {}
    installed = {name: _installed(name) for name in {*pins, *_SHOWN}}
    others = [
        f"{name} {version or 'is missing'}, not {pins.get(name)}"
        for name, version in sorted(installed.items())
        if (version is not None or name in _SHOWN) and version != pins.get(name)
    ]
    shown = ", ".join(f"{name} {installed[name]}" for name in _SHOWN)
    versions = f"versions: Python {platform.python_version()}, {shown}"
    return Finding(not others, f"{versions}, all as pinned" if not others else f"versions: {'; '.join(others)}", remedy)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]  # 2.13.0+cpu is built from 2.13.0
    except importlib.metadata.PackageNotFoundError:
        return None


def check_parameters() -> Finding:
    """Whether params.yaml has what dvc.yaml names, nothing else, and a chain of tasks."""
    remedy = f"`git diff {PARAMS_FILE} {PIPELINE_FILE}` shows what has changed"
    try:
        given, known = read_mapping(PARAMS_FILE), set(declared(read_mapping(PIPELINE_FILE)))
        others = [
            f"{name} is in {PARAMS_FILE if name in given else PIPELINE_FILE} only"
            for name in sorted(given.keys() ^ known)
        ]
        if not others:
            check_chain(given["tasks"], given["num_tasks"], available=len(given["tasks"]))
    except UserError as error:
        return Finding(False, f"parameters: {error}", remedy)
    return Finding(
        not others, f"parameters: {'; '.join(others) or f'{len(given)}, as {PIPELINE_FILE} has them'}", remedy
    )


def check_device() -> Finding:
    """Where tensors are computed."""
    from pipeline.device import compute_device  # noqa: PLC0415  (seconds, which the other findings need not wait for)

    try:
        return Finding(True, f"device: {compute_device()}")
    except UserError as error:
        return Finding(False, f"device: {error}", "unset DEVICE")


def cache_folder() -> Path:
    """DVC's cache, wherever it is configured to be."""
    printed = _output(sys.executable, "-m", "dvc", "cache", "dir")
    if printed is None:
        raise UserError("DVC finds no repository here, or can't read .dvc/config: work in a clone's root")
    folder = Path(printed)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def check_room(cache: Path) -> Iterator[Finding]:
    """Whether there is room, and leave to write, where things are written."""
    for what, folder in (("workspace", Path()), ("cache", cache), ("temporary files", Path(tempfile.gettempdir()))):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(False, f"{what}: {there} cannot be written to", "grant access, or set TMPDIR for the last")
        else:
            yield Finding(free >= _ROOM, f"{what}: {free / 1e9:.1f} GB free in {there}", "make room: `dvc gc -w` helps")


def check_leftovers() -> Iterator[Finding]:
    """What killed processes have left."""
    unfinished = [
        (path, int(name[1]))
        for folder in OUTPUTS
        for path in sorted(folder.rglob(".*"))
        if (name := _UNFINISHED.fullmatch(path.name))
    ]
    dead = [path for path, pid in unfinished if not psutil.pid_exists(pid)]
    if not dead:
        yield Finding(True, "leftovers: no unfinished file of a killed process")
    for path in dead:
        yield Finding(False, f"{path} is unfinished, its writer is gone", REPAIR, path)
    if RWLOCK.exists():
        yield from _check_lock()


def _check_lock() -> Iterator[Finding]:
    try:
        holders = list(_holders(json.loads(RWLOCK.read_text())))
    except ValueError:
        yield Finding(False, f"{RWLOCK} is damaged, DVC can't start", REPAIR, RWLOCK)
        return
    alive = [holder for holder in holders if psutil.pid_exists(holder["pid"])]
    for holder in alive:
        yield Finding(True, f"`{holder['cmd']}` (PID {holder['pid']}) is at work; a second one has to wait")
    if holders and not alive:
        yield Finding(False, f"{RWLOCK} was left by a killed `{holders[0]['cmd']}`", REPAIR, RWLOCK)


def _holders(locks: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Processes that DVC's lock file names: one a written path, several a read one."""
    yield from locks.get("write", {}).values()
    for readers in locks.get("read", {}).values():
        yield from readers
