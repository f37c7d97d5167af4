"""How advect behaves when things go wrong; each benchmark is one command, `python -m benchmarks.reliability.NAME`."""
