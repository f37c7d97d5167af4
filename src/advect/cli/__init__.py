"""The command. `advect --help` must stay quick: a verb's own imports happen when the verb runs."""

from advect.cli.app import main

__all__ = ["main"]
