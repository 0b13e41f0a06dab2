"""What a stage's process is wrapped in."""
