"""Speed and memory compared with other implementations: ``python -m benchmarks``."""
