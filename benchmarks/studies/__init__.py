"""Studies of the accuracy of methods and schedules."""
