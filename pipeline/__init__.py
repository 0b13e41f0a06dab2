"""Continual LayerNorm tuning (arXiv 2308.09610): the library that the stages call. See README.md."""
