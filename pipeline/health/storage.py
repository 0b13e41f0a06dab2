"""Compares what DVC has stored, in its cache and in the workspace, with the digests under which it is stored. DVC does
not hash a write-protected cache object, nor a file whose time and size it knows. So this reads all of them.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import track

from pipeline.errors import REPAIR, UserError
from pipeline.health.findings import Finding
from pipeline.params import read_mapping
from pipeline.store.seal import check_seal

LOCK_FILE = Path("dvc.lock")
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_SEALED = ("artifacts", "data")  # folders in which every file carries its own digest; reports can only be compared


def check_storage(cache: Path, *, at_work: bool = False) -> list[Finding]:
    """Checks the objects of a cache folder and the outputs that dvc.lock names, but no outputs while a DVC is running.

    Returns a list, because a repair must not change what is still to be checked, such as the object behind a link.
    """
    files = {path: path.parent.name + path.name for path in sorted(cache.glob("files/md5/??/*"))}
    objects = {path: oid for path, oid in files.items() if _OBJECT.fullmatch(oid)}  # DVC is writing the others
    expected = {} if at_work else outputs({oid: path for path, oid in objects.items()})
    found = md5_of([*objects, *(path for path in expected if path.is_file())])
    right = {path: oid.removesuffix(".dir") for path, oid in objects.items()} | expected
    copies = {digest: path for path, digest in found.items() if digest == right[path]}  # where this content belongs
    findings = [*_objects_found(cache, objects, expected, found, copies)]
    if at_work:
        return [*findings, Finding(True, "outputs: not checked while a DVC is running")]
    return [*findings, *_outputs_found(expected, found, copies)]


def _objects_found(
    cache: Path,
    objects: Mapping[Path, str],
    expected: Mapping[Path, str | None],
    found: Mapping[Path, str],
    copies: Mapping[str, Path],
) -> Iterator[Finding]:
    damaged = [path for path, oid in objects.items() if path in found and found[path] != oid.removesuffix(".dir")]
    users: dict[str | None, list[str]] = {}  # which outputs have this content
    for path, digest in expected.items():
        users.setdefault(digest, []).append(str(path))
    if not damaged:
        yield Finding(True, f"cache: {len(objects)} objects in {cache}, all intact")
    for path in damaged:
        names = f" ({', '.join(users[objects[path]])})" if objects[path] in users else ""
        intact = copies.get(objects[path].removesuffix(".dir"))
        yield Finding(False, f"{path}{names} is damaged", REPAIR, path, intact)


def outputs(objects: Mapping[str, Path]) -> dict[Path, str | None]:
    """Every output file that dvc.lock names, and its MD5; None if the list of its folder is damaged or missing.

    objects: the cache's, by name.
    """
    expected: dict[Path, str | None] = {}
    for path, digest in locked():
        if digest.endswith(".dir"):
            expected |= {file: None for file in path.rglob("*") if file.is_file()}
            expected |= {path / name: md5 for name, md5 in _listed(objects.get(digest), digest).items()}
        else:
            expected[path] = digest
    return expected


def locked() -> list[tuple[Path, str]]:
    """Paths of outputs, and what dvc.lock says of them: an MD5, that of its list for a folder."""
    try:
        stages = read_mapping(LOCK_FILE).get("stages", {}) if LOCK_FILE.exists() else {}
        return [(Path(out["path"]), out["md5"]) for stage in stages.values() for out in stage.get("outs", [])]
    except (AttributeError, KeyError, TypeError, UserError):
        raise UserError(f"{LOCK_FILE} is damaged: `git restore {LOCK_FILE}`, then `dvc repro`") from None


def _listed(file: Path | None, digest: str) -> dict[str, str]:
    content = file.read_bytes() if file else b""
    if hashlib.md5(content).hexdigest() != digest.removesuffix(".dir"):
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def _outputs_found(
    expected: Mapping[Path, str | None], found: Mapping[Path, str], copies: Mapping[str, Path]
) -> Iterator[Finding]:
    missing = [path for path in expected if path not in found]
    others = [path for path, digest in expected.items() if path in found and found[path] != digest]
    damaged = [path for path in others if not _is_intact(path, expected[path])]
    changed = [path for path in others if path not in damaged and expected[path] is not None]
    if not (damaged or changed):
        note = f", {len(missing)} missing here: `dvc repro` makes them, or `dvc pull` fetches them" if missing else ""
        yield Finding(True, f"outputs: {len(expected) - len(missing)}, as {LOCK_FILE} has them{note}")
    for path in damaged:
        intact = copies.get(expected[path] or "")
        if not (intact and _is_link_to(path, expected[path] or "")):  # which is intact as soon as the object is
            yield Finding(False, f"{path} is damaged or changed by hand", REPAIR, path, intact)
    for path in changed:  # by a stage, since it is sealed
        yield Finding(False, f"{path} comes from another run than {LOCK_FILE}", "`dvc repro`")


def _is_link_to(path: Path, digest: str) -> bool:
    """Whether an output is a symbolic link to its object in a cache (DVC's cache.type)."""
    return path.is_symlink() and "".join(path.resolve().parts[-2:]) == digest


def _is_intact(path: Path, expected: str | None) -> bool:
    """Whether a file is intact although its content is unexpected or nothing is known about it."""
    if path.parts[0] not in _SEALED:
        return expected is None
    try:
        check_seal(path)
    except ValueError:
        return False
    return True


def md5_of(paths: Iterable[Path]) -> dict[Path, str]:
    """MD5 of every file that is there."""
    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        results = pool.map(_md5, paths)
        digests = track(results, "checking files", len(paths), transient=True, disable=not sys.stdout.isatty())
        return {path: digest for path, digest in zip(paths, digests, strict=True) if digest}


def _md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return None  # a DVC at work has just removed it
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}: grant access or, if it is broken, delete it") from None
