"""What tests and benchmarks share: tiny models, repositories to run in, faults to inject."""
