"""What a node of a cluster does for one experiment: it runs DVC in a clone of its own and returns the result.

Ray sends these functions to nodes that have no copy of the project, so they import the standard library only. Two nodes
never share a clone, because DVC's lock file ignores processes of other machines.
"""

import ctypes
import glob
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TypedDict


class Project(TypedDict):
    """What is cloned, and where results go."""

    url: str  # of the Git repository: where the nodes see it
    commit: str
    patch: bytes  # changes that are not committed
    folder: str  # of the project within the repository
    cache: str  # DVC's cache, if the nodes see it; otherwise "", and DVC's remote carries artifacts
    versions: dict[str, str]  # of packages that numbers depend on


class Job(TypedDict):
    """One call of DVC."""

    name: str
    target: str  # the last stage
    overrides: list[str]  # arguments -S of `dvc exp run`
    returns: bool  # whether the result is an experiment; otherwise others wait for its stages in the cache


class Outcome(TypedDict):
    """How a job ended."""

    node: str  # Ray's number of it
    problem: str  # one line; "" after success
    is_unfit: bool  # the node can't run any job; another one may
    output: str  # of all commands
    work: str  # lines for the log of stages


class _Failed(Exception):  # noqa: N818  (no error to anybody but `run`)
    """A command failed: why, in one line."""


class _Unfit(Exception):  # noqa: N818
    """This node can't run experiments: why, in one line."""


_FULL = r"No space left on device|Disk quota exceeded|Read-only file system"


def run(job: Job, project: Project) -> Outcome:
    """Run one job on this node. Never raises: the outcome says what went wrong."""
    import ray  # noqa: PLC0415  (an extra)

    outcome = Outcome(node=ray.get_runtime_context().get_node_id(), problem="", is_unfit=False, output="", work="")
    lines: list[str] = []
    _remove_abandoned()
    try:
        _check(project)
        with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
            if not (job["returns"] and _is_published(job["name"], project["url"], lines)):
                outcome["work"] = _run_in(Path(folder), job, project, lines)
    except (_Failed, _Unfit) as error:
        outcome["problem"], outcome["is_unfit"] = str(error), isinstance(error, _Unfit)
    except OSError as error:
        outcome["problem"], outcome["is_unfit"] = f"{error.filename or tempfile.gettempdir()}: {error.strerror}", True
    outcome["output"] = "\n".join(lines)
    return outcome


def _check(project: Project) -> None:
    """Whether this node computes the same numbers as all others."""
    for package, version in project["versions"].items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            raise _Unfit(
                f"its Python, {sys.executable}, has {package} {found} instead of {version}: "
                "start Ray there from an environment made with constraints.txt"
            )


def _run_in(folder: Path, job: Job, project: Project, lines: list[str]) -> str:
    """Clone, run and return the result. Returns the clone's log of stages."""
    os.environ["DVC_SITE_CACHE_DIR"] = str(folder / "site")  # otherwise DVC leaves a folder per clone on the machine
    clone, cache = folder / "clone", project["cache"]
    here = clone / project["folder"]
    try:
        _command(["git", "clone", "-qn", project["url"], str(clone)], folder, lines)
    except _Failed as error:
        raise _Unfit(f"can't clone {project['url']}: {error}") from None
    _command(["git", "checkout", "-q", "--detach", project["commit"]], clone, lines)
    if project["patch"]:
        _command(["git", "apply", "--whitespace=nowarn", "-"], clone, lines, given=project["patch"])
    own = Path(tempfile.gettempdir()) / f"sweep-cache-{os.getuid()}"  # what DVC's remote gave to this node
    (here / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache or own}\n", encoding="utf-8")
    if cache:
        _dvc(["dvc", "checkout", "-q", "--allow-missing"], here, lines)
    pull = [] if cache else ["--pull"]
    _dvc(["pipeline.dvc", "exp", "run", *pull, "-n", job["name"], *job["overrides"], job["target"]], here, lines)
    if job["returns"]:
        _publish(job["name"], project, here, lines)
    elif not cache:
        _dvc(["dvc", "push", "-q", "--run-cache", "--with-deps", job["target"]], here, lines)
    log = here / ".scratch/stages.jsonl"
    return log.read_text(encoding="utf-8") if log.exists() else ""


def _publish(name: str, project: Project, here: Path, lines: list[str]) -> None:
    """Return an experiment, unless a node that Ray had given up was faster."""
    try:
        _dvc(["dvc", "exp", "push", "--no-cache" if project["cache"] else "--run-cache", "origin", name], here, lines)
    except _Failed:
        if not _is_published(name, project["url"], lines):
            raise


def _is_published(name: str, url: str, lines: list[str]) -> bool:
    """Whether the repository has an experiment of this name."""
    try:
        return bool(_command(["git", "ls-remote", url, f"refs/exps/*/{name}"], Path(tempfile.gettempdir()), lines))
    except _Failed as error:
        raise _Unfit(f"can't read {url}: {error}: nodes must see it, or clone through --remote") from None


def _dvc(command: list[str], here: Path, lines: list[str]) -> None:
    _command([sys.executable, "-m", *command], here, lines)


def _command(command: list[str], folder: Path, lines: list[str], given: bytes = b"") -> str:
    """The output of a command that ends when this process does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | own,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        preexec_fn=_end_with_parent,  # Ray runs a task in its process's main thread
    )
    printed = done.stdout.decode(errors="replace")
    lines.append(f"$ {' '.join(command)}\n{printed}")
    if done.returncode:
        if full := re.search(_FULL, printed):
            raise _Unfit(f"{full[0].lower()} below {tempfile.gettempdir()} or in DVC's cache: make room there")
        raise _Failed(_reason(printed) or f"{' '.join(command[:4])} ended with {done.returncode}")
    return printed


def _reason(printed: str) -> str:
    """The line that says why: a stage's own, otherwise the last error of git or DVC."""
    stage = re.findall(r"^error: (.+)", printed, re.MULTILINE)
    return (
        stage or re.findall(r"^(?:ERROR|fatal): (.+)", printed, re.MULTILINE) or printed.split("\n")[-2:-1] or [""]
    )[-1]


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, since the parent may have no time to do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _prefix() -> str:
    """Of the names of this machine's clones: others may use the same folder of temporary files."""
    return f"sweep-{platform.node()}-"  # no constant, which would come with the module, from the driver's machine


def _remove_abandoned() -> None:
    """Remove the clones of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(_prefix())}*-*"):
        owner = folder.name.removeprefix(_prefix()).split("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
