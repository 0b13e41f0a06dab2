"""The one exception that stands for a user's mistake, the remedy for damage, and what the machine may refuse."""

import errno

# Deleting a damaged file alone does not: DVC brings it back from a damaged cache, even after `dvc repro -f`.
REPAIR = "`python -m pipeline doctor --repair`, then `dvc repro`"

# What a full disk, a folder without access or a failing disk says, wherever it happens: no bug of ours.
REFUSALS = frozenset({errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS})


class UserError(ValueError):
    """Names the culprit and the remedy in one line; a stage prints it and exits with 1. All else is our bug."""
