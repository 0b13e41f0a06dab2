"""Studies: accuracy of methods and schedules."""
