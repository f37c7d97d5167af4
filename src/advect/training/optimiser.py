"""AdamW without what torch's own class does around it in every step.

On a small network the class spends several times as long on looking its state up as on arithmetic. `advance` looks it
up once and then calls the same fused kernel on the same tensors: the weights are those of `torch.optim.AdamW` to the
bit, and so is what a checkpoint holds.
"""

from typing import Any

import torch
from torch import Tensor, nn


class FusedAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` of one group of parameters, with `advance` in the place of ``step``.

    Args:
        parameters: What is trained.
        settings: Of `torch.optim.AdamW`, all but ``fused``, which is on where all parameters lie on processors or
            NVIDIA cards.
    """

    def __init__(self, parameters: list[nn.Parameter], **settings: Any) -> None:
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        super().__init__(parameters, fused=fused, **settings)
        self._parameters: list[Tensor] = list(parameters)
        # The kernel takes the tensors of one device and dtype at a time; with several torch's class sorts them.
        self._direct = fused and len({(p.device, p.dtype) for p in parameters}) == 1
        self._held: Any = None
        self._moments: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])

    @torch.no_grad()
    def advance(self, rate: float) -> None:
        """One step at this learning rate, from the parameters' ``grad``; those that have none stay as they are."""
        group = self.param_groups[0]
        group["lr"] = rate
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not self._direct or len(gradients) < len(self._parameters) or not self._find():
            self.step()
            return
        means, squares, steps = self._moments
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            self._parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )

    def _find(self) -> bool:
        """Look the state up where it has changed hands; False where there is none yet for some parameter."""
        first = self.state.get(self._parameters[0])
        if first is None or first is not self._held:
            if not all(p in self.state for p in self._parameters):
                return False
            self._held = first
            states = [self.state[p] for p in self._parameters]
            self._moments = tuple([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq", "step"))  # type: ignore
        return True


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of all of them together; zero of none."""
    if not gradients:
        return torch.zeros(())
    where = gradients[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(where) for norm in torch._foreach_norm(gradients)]))
