"""Stage one: what a task tunes, and the training loop."""
