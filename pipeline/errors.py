"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Names the culprit and the remedy in one line; a stage prints it and exits with 1. All else is our bug."""
