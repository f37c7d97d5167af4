"""The parts of `compare`: what is asked, the rows everyone is judged on, one training, one measurement, the table."""

from advect.workflows.comparison.request import CompareRequest

__all__ = ["CompareRequest"]
