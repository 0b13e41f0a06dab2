"""The one exception that stands for a user's mistake, the remedy for damage, and what the machine may refuse."""

import errno

# Deleting a damaged file alone does not: DVC brings it back from a damaged cache, even after `dvc repro -f`.
REPAIR = "`python -m pipeline doctor --repair`, then `dvc repro`"

# What a full disk, a folder without access or a failing disk says, wherever it happens: no bug of ours.
REFUSALS = frozenset({errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS})

_LONGEST = 1000  # characters; what a user has put into a file may be of any length


def visible(text: str) -> str:
    """Text on one line that no terminal obeys: what can't be printed is replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class UserError(ValueError):
    """Names the culprit and the remedy in one line; a stage prints it and exits with 1. All else is our bug."""

    def __init__(self, message: str) -> None:
        """message: may quote anything a user wrote; it becomes one line, and loses its middle where it is too long."""
        line = visible(message)
        cut = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__(line if len(line) <= _LONGEST else cut)
