"""The ways to learn the classes of a task: one file per value of `classifier`."""
