"""What every network over pictures must do, whatever it is made of."""

import torch


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def woken(network):
    """Every zero layer drawn away from zero, so that all of the network speaks."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2, generator=draws(5))
    return network


def rows_stay_apart(network, shape, features):
    """Any size of picture: each row has its own answer, alone or in company, at its own time or at one for all."""
    x = torch.randn(4, *shape, generator=draws(1), dtype=torch.float64)
    condition = torch.randn(4, features, generator=draws(2), dtype=torch.float64) if features else None
    t = torch.rand(4, generator=draws(3), dtype=torch.float64)
    found = network(t, x, condition)
    assert found.shape == x.shape
    alone = torch.cat(
        [network(t[i : i + 1], x[i : i + 1], None if condition is None else condition[i : i + 1]) for i in range(4)]
    )
    torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network(0.3, x, condition), network(0.3 * torch.ones_like(t), x, condition))


def zero_at_the_start_and_everything_learns(network):
    """Of a new network for pictures (1, 8, 8) and conditions of two numbers."""
    x, condition = torch.randn(3, 1, 8, 8, generator=draws(1)), torch.randn(3, 2, generator=draws(2))
    assert not network(0.5, x, condition).any()
    woken(network)(torch.rand(3, generator=draws(3)), x, condition).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    network.start_at_zero()
    assert not network(0.5, x, condition).any()
