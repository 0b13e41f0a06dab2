"""Everything that only a GPU can show, measured by one command in a few minutes: see benchmarks/gpu/command.py."""
