"""Faults: what people, disks and machines do wrong."""
