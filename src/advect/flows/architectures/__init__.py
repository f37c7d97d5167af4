"""Named architectures: functions that only assemble maps of `advect.transforms`, one per method name."""
