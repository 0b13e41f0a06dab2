"""Sweeps of experiments, and their comparison."""
