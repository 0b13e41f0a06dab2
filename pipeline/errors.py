"""The one exception that stands for a user's mistake, and the remedy that helps against every damage."""

# Deleting a damaged file alone does not: DVC brings it back from a damaged cache, even after `dvc repro -f`.
REPAIR = "`python -m pipeline doctor --repair`, then `dvc repro`"


class UserError(ValueError):
    """Names the culprit and the remedy in one line; a stage prints it and exits with 1. All else is our bug."""
