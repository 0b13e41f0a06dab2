"""The selectors of a task from queries: one file per value of `selector`."""
