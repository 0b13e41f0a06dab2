"""Looks for what would go wrong, before it does: `python -m pipeline doctor`."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.errors import REPAIR, UserError
from pipeline.health.findings import Finding
from pipeline.health.storage import check_storage
from pipeline.params import PARAMS_FILE, PIPELINE_FILE, known_keys, read_mapping
from pipeline.runtime.dvc_lock import RWLOCK, lock_holders
from pipeline.runtime.git import git
from pipeline.tasks import check_chain

PINS = Path("constraints.txt")
OUTPUTS = (Path("data"), Path("artifacts"), Path("reports"))
_SHOWN = ("dvc", "torch", "torchvision", "timm")
_ROOM = 2**30  # bytes that should be free
# pipeline.store.artifacts writes .NAME.PID before NAME; a user's images may lie in the same folders.
_UNFINISHED = re.compile(r"\..+\.(?:csv|json|md|png|safetensors)\.(\d+)")
_COLLECT = (
    "while nothing runs, `dvc gc --all-commits --all-experiments` deletes what neither the workspace nor any commit, "
    "tag or experiment needs"
)
_SHARED = "make room, but beware: `dvc gc` deletes what other projects keep in this cache, unless -p names each of them"


def examine() -> Iterator[Finding]:
    """All checks, the long one last."""
    yield from check_environment()
    yield check_versions()
    yield check_parameters()
    yield check_device()
    yield from check_images()
    yield from check_line_endings()
    yield from check_leftovers()
    cache = cache_folder()
    yield from check_room(cache)
    yield from check_storage(cache, at_work=any(psutil.pid_exists(pid) for pid in lock_holders() or {}))


def check_environment() -> Iterator[Finding]:
    """What the stages call by its name: python, dvc, git."""
    here = Path(sys.executable).parent
    activate = f"`source {here}/activate`"
    prefix = _output("python", "-c", "import sys; print(sys.prefix)")
    yield Finding(prefix == sys.prefix, f"python: from {prefix or 'no environment on the PATH'}", activate)
    dvc = shutil.which("dvc")
    yield Finding(dvc is not None and Path(dvc).parent == here, f"dvc: {dvc or 'not on the PATH'}", activate)
    try:
        yield Finding(True, f"git: {git('rev-parse', '--show-toplevel').strip()}")
    except UserError as error:
        what, _, remedy = str(error).rpartition(": ")
        yield Finding(False, f"git: {what}", remedy)


def _output(*command: str) -> str | None:
    """What a command prints; None if it fails or does not exist."""
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
    """Whether params.yaml has exactly the names that dvc.yaml uses, and a valid chain of tasks."""
    remedy = f"`git diff {PARAMS_FILE} {PIPELINE_FILE}` shows what has changed"
    try:
        given, known = read_mapping(PARAMS_FILE), known_keys()
        others = [
            f"{name} is in {PARAMS_FILE if name in given else PIPELINE_FILE} only"
            for name in sorted(given.keys() ^ known)
        ]
        if not others:
            check_chain(given["tasks"], given["num_tasks"])
    except UserError as error:
        return Finding(False, f"parameters: {error}", remedy)
    return Finding(
        not others, f"parameters: {'; '.join(others) or f'{len(given)}, as {PIPELINE_FILE} has them'}", remedy
    )


def check_device() -> Finding:
    """Where tensors are computed."""
    from pipeline.machine.device import compute_device  # noqa: PLC0415  (seconds, which the other findings need not wait for)

    try:
        return Finding(True, f"device: {compute_device()}")
    except UserError as error:
        return Finding(False, f"device: {error}", "unset DEVICE")


def check_images() -> Iterator[Finding]:
    """A user's folder of images. DVC does not notice a link to a folder, or an ignored folder, that was added later."""
    from pipeline.data.datasets import IMAGE_FOLDER, fetch_dataset  # noqa: PLC0415  (seconds of imports)

    params = read_mapping(PARAMS_FILE)
    if params.get("dataset") != IMAGE_FOLDER:
        return
    folder = Path(str(params.get("data_dir")))
    try:
        are_domains = params.get("setting") == "domain"
        images = fetch_dataset(IMAGE_FOLDER, data_dir=folder, scratch=Path(), domains=are_domains)
    except UserError as error:
        yield Finding(False, f"images: {error}", "images/README.md says how they may lie")
        return
    counts = f"{len(images.train_labels)} for training, {len(images.test_labels)} for testing"
    domains = f"{len(images.domains)} domains, " if images.domains else ""
    yield Finding(True, "; ".join([f"images: {domains}{len(images.classes)} classes, {counts}", *images.notes]))


def cache_folder() -> Path:
    """DVC's cache, wherever the configuration puts it."""
    printed = _output(sys.executable, "-m", "dvc", "cache", "dir")
    if printed is None:
        raise UserError("DVC finds no repository here, or can't read .dvc/config: work in a clone's root")
    folder = Path(printed)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def check_line_endings() -> Iterator[Finding]:
    """Whether git has rewritten line endings (core.autocrlf) in files that DVC hashes; .gitattributes forbids it."""
    listed = (_output("git", "ls-files", "--eol", "pipeline", "stages", "reports") or "").splitlines()
    rewritten = [line.partition("\t")[2] for line in listed if re.match(r"i/lf\s+w/(crlf|mixed)", line)]
    if rewritten:
        what = f"line endings: git has changed those of {len(rewritten)} files, such as {rewritten[0]}"
        yield Finding(
            False, what, "`git rm -rq --cached . && git reset --hard` in a clone without edits, or a new clone"
        )


def check_room(cache: Path) -> Iterator[Finding]:
    """Whether the folders that are written to have room and are writable."""
    in_cache = f"make room: {_COLLECT}" if cache.is_relative_to(Path.cwd()) or not cache.is_absolute() else _SHARED
    for what, folder, remedy in (
        ("workspace", Path(), "make room"),
        ("cache", cache, in_cache),
        ("temporary files", Path(tempfile.gettempdir()), "make room, or set TMPDIR"),
    ):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(False, f"{what}: {there} cannot be written to", "grant access, or choose another folder")
        else:
            yield Finding(free >= _ROOM, f"{what}: {free / 1e9:.1f} GB free in {there}", remedy)


def check_leftovers() -> Iterator[Finding]:
    """What killed processes have left behind."""
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
        yield Finding(False, f"{path} is unfinished, and the process that wrote it is gone", REPAIR, path)
    if RWLOCK.exists():
        yield from _check_lock()


def _check_lock() -> Iterator[Finding]:
    holders = lock_holders()
    if holders is None:
        yield Finding(False, f"{RWLOCK} is damaged, so DVC can't start", REPAIR, RWLOCK)
        return
    alive = {pid: command for pid, command in holders.items() if psutil.pid_exists(pid)}
    for pid, command in alive.items():
        yield Finding(True, f"another dvc is running: `{command}` (PID {pid})")
    if holders and not alive:
        yield Finding(False, f"{RWLOCK} was left by a killed `{next(iter(holders.values()))}`", REPAIR, RWLOCK)
