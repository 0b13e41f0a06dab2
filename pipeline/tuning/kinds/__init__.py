"""What a task can tune: one file per value of `tuning`."""
