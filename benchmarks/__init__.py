"""The program against raw drivers and its peers: ``python -m benchmarks``."""
