"""Selects the task whose parameters an image gets."""
