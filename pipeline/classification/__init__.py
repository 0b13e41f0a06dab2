"""Stage two: how the classes of a task are learned."""
