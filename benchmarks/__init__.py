"""Speed and memory beside others' code: ``python -m benchmarks``."""
