"""Published tables and speed against peers, each behind one resumable command; see benchmarks/README.md."""
