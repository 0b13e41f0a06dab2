"""The one exception that stands for a user's mistake."""

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
