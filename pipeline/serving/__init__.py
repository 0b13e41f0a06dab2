"""Serves the learner over HTTP: a page on which you drop pictures, and an endpoint for programs."""
