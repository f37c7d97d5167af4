"""Exit codes. 130 is 128 + SIGINT, and 70 is EX_SOFTWARE of sysexits.h: a fault of advect's own."""

DONE, CHECK_FAILED, REFUSED, FAULT, INTERRUPTED = 0, 1, 2, 70, 130
