"""Exponentials of plans, whose smallest entries lie far below what a float64 can hold.

Where the result would be subnormal or zero, exp takes some fifteen times as long on processors (1.3 ms for 256 × 256
against 0.07 by MKL), and in plans of small regularisation that is most entries. Everything below e⁻⁶⁰⁰ = 1e-261 beside
the largest is therefore given that value: next to it, a million such entries change no digit.
"""

from torch import Tensor

LEAST = -600.0
"""Exponents below this are raised to it."""


def exp_of(x: Tensor) -> Tensor:
    """e^x of float64 numbers of at most some hundreds, in memory of its own."""
    return x.clamp(min=LEAST).exp_()


def log_sum(x: Tensor, dim: int) -> Tensor:
    """log Σ e^x along a dimension of finite float64 numbers."""
    largest = x.amax(dim, keepdim=True)
    return exp_of(x - largest).sum(dim).log_().add_(largest.squeeze(dim))
