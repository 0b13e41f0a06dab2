"""The Markdown report and its figures."""
