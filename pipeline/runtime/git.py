"""Runs git. If git refuses, its first line says why; the advice that follows seldom fits the case."""

import os
import re
import subprocess

from pipeline.errors import UserError


def git(*arguments: str) -> str:
    """What a git command prints, as text. Raises UserError, with what helps."""
    return git_bytes(*arguments).decode(errors="replace")


def git_bytes(*arguments: str) -> bytes:
    """What a git command prints. Raises UserError, with what helps."""
    environment = os.environ | {"LC_ALL": "C"}  # messages in English; names of files are bytes to git
    try:
        done = subprocess.run(["git", *arguments], check=False, capture_output=True, env=environment)
    except OSError:
        raise UserError("git is not on the PATH: install it") from None
    if done.returncode:
        raise UserError(_reason(arguments[0], done.stderr.decode(errors="replace")))
    return done.stdout


def _reason(command: str, printed: str) -> str:
    """Why a git command failed, and what to do."""
    if trust := re.search(r"git config --global --add safe\.directory .+", printed):
        return f"the repository is another user's, which git does not trust: if you do, `{trust[0]}`"
    if "not a git repository" in printed:
        return "no git repository here: work in a clone's root"
    reason = re.search(r"^(?:fatal|error): (.+)", printed, re.MULTILINE)
    return f"git {command} failed: {reason[1] if reason else 'no message'}: `git status` may say more"
