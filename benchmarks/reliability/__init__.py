"""How advect behaves when things go wrong: each benchmark here is one command, `python -m benchmarks.reliability.NAME`."""
