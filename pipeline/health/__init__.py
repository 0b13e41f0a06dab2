"""The doctor: finds what is wrong with a checkout, and repairs it."""
