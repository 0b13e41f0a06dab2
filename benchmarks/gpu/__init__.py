"""Measures everything that only a GPU can show, by one command in a few minutes: see benchmarks/gpu/command.py."""
