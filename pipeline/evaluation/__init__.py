"""Predictions after every step, corrections, and metrics."""
