"""A clone of the project with a tenth of the images, and the real `dvc` in it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.parameters import PLAIN, set_params
from harness.root import ROOT
from pipeline.runtime import stage_server

SMALLER = {
    "pipeline/data/sets/glyph_images.py": [
        ("TRAIN_PER_CLASS = 40", "TRAIN_PER_CLASS = 5"),
        ("TEST_PER_CLASS = 40", "TEST_PER_CLASS = 2"),
    ],
}


@dataclass(frozen=True)
class Repository:
    """A clone, and commands run in it."""

    path: Path
    env: dict[str, str]

    def run(self, *command: str, fails: bool = False, cwd: str = ".") -> str:
        """Run a command and return the output of both streams. The exit code must be as expected."""
        done = subprocess.run(
            command,
            cwd=self.path / cwd,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def dvc(self, *arguments: str, fails: bool = False, cwd: str = ".") -> str:
        """Output of a DVC command."""
        return self.run("dvc", *arguments, fails=fails, cwd=cwd)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def clone(self, path: Path) -> "Repository":
        """A fresh clone: no cache, no artifacts."""
        self.run("git", "clone", "-q", ".", str(path))
        return Repository(path, self.env)

    def experiment(self, name: str) -> str:
        """Commit of an experiment."""
        return self.run("git", "for-each-ref", f"refs/exps/**/{name}", "--format=%(objectname)").strip()

    def read(self, path: str) -> str:
        """Text of a file."""
        return (self.path / path).read_text()

    def digests(self, *patterns: str) -> dict[str, bytes]:
        """Content of the files that match."""
        return {
            str(p.relative_to(self.path)): p.read_bytes()
            for pattern in patterns
            for p in sorted(self.path.glob(pattern))
            if p.is_file()
        }


def ran(output: str) -> list[str]:
    """Stages that DVC ran, in order."""
    return re.findall(r"Running stage '([^']+)'", output)


def cached(output: str) -> list[str]:
    """Stages whose results DVC took from its cache."""
    return re.findall(r"Stage '([^']+)' is cached", output)


def per_task(*names: str, tasks: int = 2) -> list[str]:
    """Names of the stages of every task, as DVC writes them."""
    return [f"{name}@t{task}" for name in names for task in range(1, tasks + 1)]


@contextmanager
def stage_environment() -> Iterator[dict[str, str]]:
    """Environment variables that send `python -m stages.X` to a stage server and give git a user."""
    one_thread = {"OMP_NUM_THREADS": "1"}  # two test workers on two cores; torch reads it once, when it is imported
    server = stage_server.start(os.environ | one_thread)
    try:
        inherited = {name: value for name, value in server.environment.items() if not name.startswith(("DVC_", "GIT_"))}
        people = {
            f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        plain = {"DVC_NO_ANALYTICS": "1", "COLUMNS": "200", "GIT_CONFIG_GLOBAL": os.devnull}
        yield inherited | people | plain
    finally:
        stage_server.stop(server)


def make_repository(path: Path, env: dict[str, str]) -> Repository:
    """A smaller copy of the project's working tree, with two tasks, in which nothing has run yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(("reports/", "dvc.lock", "tests/", "docs/")) and (ROOT / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    for name, changes in SMALLER.items():
        text = (path / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (path / name).write_text(text)
    set_params(path / "params.yaml", **PLAIN, epochs=1, classifier_epochs=2)
    repository = Repository(path, env)
    repository.run("git", "init", "-qb", "main")
    repository.run("python", "-m", "pipeline", "plan", "2")
    repository.commit("project")
    return repository
