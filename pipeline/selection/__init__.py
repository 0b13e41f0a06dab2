"""Which task's parameters an image gets."""
