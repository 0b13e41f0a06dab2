"""Fault injection: mistakes of people, and failures of disks and machines."""
