"""Everything around the process of a stage: commands, locks, checks, resuming, the stage server."""
