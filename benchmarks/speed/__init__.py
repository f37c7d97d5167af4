"""Speed beside the peers of each task: `python -m benchmarks.speed`; see benchmarks/README.md."""
