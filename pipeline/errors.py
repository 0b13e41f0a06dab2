"""The exception for a user's mistake, the remedy for damaged files, and the errors that a machine may raise."""

import errno
from typing import TypeGuard

# Deleting a damaged file is not enough: DVC restores it from a damaged cache, even after `dvc repro -f`.
REPAIR = "`python -m pipeline doctor --repair`, then `dvc repro`"

# Errors of a full disk, a folder without access or a failing disk. Wherever they occur, they are not our bug.
_REFUSALS = frozenset({errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS})

_LONGEST = 1000  # characters; a user's file may contain text of any length


def is_refusal(error: BaseException) -> TypeGuard[OSError]:
    """Whether the machine refuses, so that no file and no server is to blame."""
    return isinstance(error, OSError) and error.errno in _REFUSALS


def visible(text: str) -> str:
    """The text on one line, without control sequences: characters that can't be printed are replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class UserError(ValueError):
    """A user's mistake: one line with the culprit and the remedy. A stage prints it and exits with 1.

    Any other exception is our bug.
    """

    def __init__(self, message: str) -> None:
        """message: may quote anything a user wrote. It is put on one line; a long one is cut in the middle."""
        line = visible(message)
        cut = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__(line if len(line) <= _LONGEST else cut)


class DivergedError(UserError):
    """Training at this rate has led to numbers that are not finite: a lower one is the remedy."""
