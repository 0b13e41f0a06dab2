"""Linear heads and class statistics: what selectors and classifiers are built from."""
