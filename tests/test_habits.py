"""Files for services and editors agree with the project's own."""

import re
import subprocess

from ruamel.yaml import YAML

from harness.root import ROOT

yaml = YAML(typ="safe", pure=True)
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def test_pre_commit_runs_the_pinned_ruff() -> None:
    hooks = yaml.load(ROOT / ".pre-commit-config.yaml")["repos"]
    revisions = {repository["repo"].rpartition("/")[2]: repository.get("rev") for repository in hooks}
    assert revisions["ruff-pre-commit"] == f"v{PINS['ruff']}"


def test_workflows_run_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflows = [yaml.load(file) for file in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job["steps"]]
    run = {name for step in steps for name in re.findall(r"\bmake (\w+)", step.get("run", ""))}
    assert {"check", "test", "docs"} <= run <= targets


def test_the_citation_has_the_version_of_the_project() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert str(yaml.load(ROOT / "CITATION.cff")["version"]) == version[1]


def test_issues_ask_for_what_the_doctor_prints() -> None:
    for name in ("bug", "idea"):
        fields = yaml.load(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml")["body"]
        assert any("python -m pipeline doctor" in field["attributes"]["label"] for field in fields)


def test_make_installs_with_uv_where_it_is_and_with_pip_elsewhere() -> None:
    def commands(*variables: str) -> str:
        return subprocess.run(
            ["make", "-n", "-B", "install", *variables], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout

    assert "\n/x/uv pip install -q" in commands("UV=/x/uv", "PIP_EXTRA_INDEX_URL=")
    assert "--extra-index-url ADDRESS " in commands("UV=/x/uv", "PIP_EXTRA_INDEX_URL=ADDRESS")
    assert "\npython -m pip install -q" in commands("UV=")
