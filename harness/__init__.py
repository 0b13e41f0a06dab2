"""Code shared by tests and benchmarks: tiny models, repositories to run in, faults to inject."""
