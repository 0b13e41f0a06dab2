"""Where artifacts are stored, and how they are written and checked."""
