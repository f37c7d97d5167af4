"""A loss that is scaled so that its gradients fit into float16, which holds nothing above 65504 and little below 6e-5.

The rule and its constants are those of `torch.amp.GradScaler` (Micikevicius et al. 2018, arXiv 1710.03740, §3.2): a
step whose gradients are not finite is skipped and the scale halved; after 2000 steps without one it is doubled.
All is decided by the norm of the whole gradient, which the processes of a training have alike. The scale is a power of
two, so that scaling rounds nothing that float16 can hold.
"""

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from advect.errors import ConfigError

START, GROWTH_STEPS = 2.0**16, 2000
LEAST = 2.0**-14  # float16's smallest normal number: what is still too large then is so by itself


class LossScale:
    """The factor of a loss before its backward pass.

    Args:
        dynamic: Whether there is one; else it is 1, and no step is skipped.

    Attributes:
        value: The factor.
        calm: Steps since it was changed last.
        skipped: Steps that were not taken, in all.
    """

    def __init__(self, *, dynamic: bool) -> None:
        self.dynamic = dynamic
        self.value = START if dynamic else 1.0
        self.calm = self.skipped = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """What to go back from."""
        return loss * self.value if self.dynamic else loss

    def factor(self, norm: float, most: float) -> float:
        """After a step's backward passes, where all is finite: by what the gradients are to be multiplied to be as they
        are, and clipped. Asked for once a step, as calm steps are counted here.

        Args:
            norm: The 2-norm of those of the scaled loss, of all processes together.
            most: Largest norm, as in `torch.nn.utils.clip_grad_norm_`; 0 clips nothing.
        """
        share = most / (norm / self.value + 1e-6) if most else 1.0
        factor = min(share, 1.0) / self.value
        if self.dynamic:
            self.calm += 1
            if self.calm == GROWTH_STEPS:
                self.value, self.calm = 2 * self.value, 0
        return factor

    def skip(self) -> bool:
        """Something was not finite: whether to go on without this step, with half the scale."""
        if not self.dynamic or self.value <= LEAST:
            return False
        self.value, self.calm = self.value / 2, 0
        self.skipped += 1
        return True

    def numbers(self) -> dict[str, float]:
        """What `load` takes; nothing where nothing is scaled."""
        return {"value": self.value, "calm": self.calm, "skipped": self.skipped} if self.dynamic else {}

    def load(self, numbers: Mapping[str, float]) -> None:
        """Restore what `numbers` gave."""
        if self.dynamic and numbers:
            self.value = float(numbers["value"])
            self.calm, self.skipped = int(numbers["calm"]), int(numbers["skipped"])

    def columns(self) -> dict[str, float]:
        """What a line of the history has of it."""
        return {"loss_scale": self.value, "skipped_steps": self.skipped} if self.dynamic else {}

    def sentence(self, steps: int) -> str:
        """What was skipped of so many steps; empty where nothing was."""
        if not self.skipped:
            return ""
        power = round(math.log2(self.value))
        return (
            f"{self.skipped} of {steps} steps were skipped: their gradients did not fit float16 (scale now 2^{power})."
        )


@torch.no_grad()
def multiply(gradients: list[Tensor], factor: float) -> None:
    """Gradients times a factor, in place."""
    if factor != 1 and gradients:
        torch._foreach_mul_(gradients, factor)


def check_float16(device: torch.device, note: Callable[[str], None]) -> None:
    """Refuse float16 where products cannot be made in it, by making some.

    Args:
        device: Where a training is to be.
        note: Told where float16 is not what it is on graphics cards.

    Raises:
        ConfigError: The device or this torch cannot.
    """
    reason = "autocast leaves products in float32"
    try:
        with warnings.catch_warnings():  # torch warns, and switches autocast off, where it knows no float16
            warnings.simplefilter("ignore")
            with torch.autocast(device.type, torch.float16):
                weight = torch.ones(8, 8, device=device, requires_grad=True)
                kernel = torch.ones(8, 8, 3, 3, device=device, requires_grad=True)
                answers = torch.ones(8, 8, device=device) @ weight, torch.conv2d(weight.new_ones(1, 8, 4, 4), kernel)
            torch.stack([answer.float().sum() for answer in answers]).sum().backward()
        if all(answer.dtype == torch.float16 for answer in answers):
            if device.type == "cpu":
                note("Few processors multiply in float16 itself; elsewhere bfloat16 and float32 are many times faster.")
            return
    except (RuntimeError, NotImplementedError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    raise ConfigError(
        f"this {'processor' if device.type == 'cpu' else 'device'} cannot train in float16: {reason}",
        where="precision",
        remedy="Take --set precision=bfloat16 or float32.",
    )
