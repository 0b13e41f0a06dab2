"""What can select a task from queries: one file per value of `selector`."""
