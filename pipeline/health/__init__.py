"""The doctor: what is wrong with a checkout, and what mends it."""
