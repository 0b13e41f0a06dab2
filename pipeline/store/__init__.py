"""Where artifacts lie, how they are written, and how they are checked."""
