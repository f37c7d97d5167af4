"""What the tests of compiled networks share: numbers, questions, rounding, and a count of calls.

Bounds: a sum of n numbers, rounded each time, is off by at most n eps times the sum of their sizes (Higham 2002); by a
few layers of tens of units of unit size that is some hundred eps of the largest number.
"""

import torch

FLOAT64 = torch.float64
ROUNDINGS = 300


def count_calls(monkeypatch, kind):
    """The calls of compiled functions that are made from now on, by name."""
    made = []
    for name in ("forward", "back"):
        plain = getattr(kind, name)

        def counted(self, *given, name=name, plain=plain, **named):
            made.append(name)
            return plain(self, *given, **named)

        monkeypatch.setattr(kind, name, counted)
    return made


def drawn(*shape, seed=0, dtype=FLOAT64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64).to(dtype)


def asked(network, rows, dtype=FLOAT64, *, shared=False):
    """Times, points beyond the usual, and conditions."""
    t = torch.tensor(0.3, dtype=dtype) if shared else torch.linspace(0, 1, rows, dtype=dtype)
    condition = drawn(rows, network.condition_features, seed=2, dtype=dtype) if network.condition_features else None
    return t, 3 * drawn(rows, *network.event_shape, seed=1, dtype=dtype), condition


def close(found, exact):
    eps = torch.finfo(found.dtype).eps
    return (found.to(FLOAT64) - exact).abs().max() <= ROUNDINGS * eps * (1 + exact.abs().max())
