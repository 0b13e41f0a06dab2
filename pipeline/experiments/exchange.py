"""What goes to the nodes of a cluster, and what comes back where they see a Git remote only."""

from importlib import metadata

from pipeline.errors import UserError
from pipeline.experiments import node
from pipeline.experiments import queue as experiments
from pipeline.runtime.git import git, git_bytes

_PACKAGES = ("dvc", "numpy", "scikit-learn", "scipy", "timm", "torch", "torchvision")
# Whatever the user's git shows differences with.
_AS_PATCH = (
    "--binary",
    "--full-index",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


def project(remote: str | None) -> node.Project:
    """What nodes clone: this commit, with the changes that are not committed, as DVC's queue would run it."""
    commit = git("rev-parse", "HEAD").strip()
    url = git("rev-parse", "--show-toplevel").strip()
    cache = "" if remote else experiments.cache_folder()
    if remote:
        known = git("remote").split()
        url = git("remote", "get-url", remote).strip() if remote in known else remote
        theirs = [line.split()[0] for line in git("ls-remote", url, "refs/heads/*", "refs/tags/*").splitlines()]
        if commit not in theirs and not any(_contains(other, commit) for other in theirs):
            raise UserError(f"{remote} has no commit {commit[:7]}, which nodes would clone: `git push` first")
    return node.Project(
        url=url,
        commit=commit,
        patch=git_bytes("diff", *_AS_PATCH, "HEAD"),
        folder=git("rev-parse", "--show-prefix").strip(),
        cache=cache,
        versions={package: metadata.version(package) for package in _PACKAGES},
    )


def _contains(tip: str, commit: str) -> bool:
    try:
        git("merge-base", "--is-ancestor", commit, tip)
    except UserError:  # also where the tip is not here
        return False
    return True


def fetch(url: str, names: set[str]) -> None:
    """Get experiments of these names that only the remote has."""
    missing = names - experiments.revisions().keys()
    refs = [line.split()[1] for line in git("ls-remote", url, "refs/exps/*").splitlines()]
    wanted = [ref for ref in refs if ref.rpartition("/")[2] in missing]
    if wanted:
        git("fetch", "-q", "--no-write-fetch-head", url, *(f"{ref}:{ref}" for ref in wanted))
