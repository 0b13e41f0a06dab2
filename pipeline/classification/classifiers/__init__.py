"""How the classes of a task can be learned: one file per value of `classifier`."""
