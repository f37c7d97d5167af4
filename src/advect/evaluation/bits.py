"""Bits per dimension: the length of a lossless code, per number of a picture.

    bits/dim = −log₂ P(x) / d = −log p(x) / (d log 2),    p a density per level, or P a probability

A density taken of rescaled pictures, x/256 in [0, 1], is per 256 levels: log₂ 256 = 8 bits are added per dimension. A
figure compares with another only if both state where the noise on whole numbers came from, and how many draws of it
were averaged inside the logarithm (Theis et al. 2016, arXiv 1511.01844, §3.1): `bits_per_dimension_metric` says both.
Log-probabilities come in nats; the unit stands in the name.
"""

import math

from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError, DataError, ShapeError
from advect.records import Metric


def bits_per_dimension(
    log_prob_nats: Float[Tensor, " batch"], dimensions: int, *, levels_scale: float = 1.0
) -> Float[Tensor, " batch"]:
    """Code length of each row in bits per dimension, ``(batch,)`` float64; lower is better.

    Args:
        log_prob_nats: Log-probability, or log-density in the units of the rows, of each row in nats.
        dimensions: Numbers in one row.
        levels_scale: Levels in one unit of the rows: 1 for whole numbers with noise, 256 for bytes scaled to [0, 1].

    A row outside the support (−∞) costs infinitely many bits, which is a number.

    Raises:
        ConfigError: Less than one dimension, or a scale that is not positive.
        DataError: Rows without a log-probability (NaN, or +∞ from a singular map), with their count: leaving them out
            would flatter the mean.
    """
    if dimensions < 1:
        raise ConfigError(f"dimensions is {dimensions}", where="bits_per_dimension", remedy="Give at least 1.")
    if not (levels_scale > 0 and math.isfinite(levels_scale)):
        raise ConfigError(
            f"levels_scale is {levels_scale}",
            where="bits_per_dimension",
            remedy="Give the levels in one unit: 1 for whole numbers, 256 for bytes scaled to [0, 1].",
        )
    nats = log_prob_nats.detach().double()
    failed = nats.isnan() | (nats == math.inf)
    if bool(failed.any()):
        raise DataError(
            f"{int(failed.sum())} of {len(nats)} rows have no log-probability",
            where=f"bits_per_dimension, first at row {int(failed.nonzero()[0])}",
            remedy="Look at the status of these rows; a mean without them would be no likelihood.",
        )
    return -nats / (dimensions * math.log(2)) + math.log2(levels_scale)


def bits_per_dimension_metric(
    log_prob_nats: Float[Tensor, " batch"],
    dimensions: int,
    *,
    dequantisation: str,
    importance_samples: int = 1,
    levels_scale: float = 1.0,
    ceiling: float | None = None,
) -> Metric:
    """The mean of `bits_per_dimension` with its standard error, and its protocol in the name.

    Args:
        log_prob_nats: See `bits_per_dimension`; at least one row.
        dimensions: Numbers in one row.
        dequantisation: Where the noise came from: ``uniform``, ``variational``, or ``none`` for real-valued rows.
        importance_samples: Draws averaged inside the logarithm.
        levels_scale: See `bits_per_dimension`.
        ceiling: The same figure for a Gaussian fit.
    """
    if not len(log_prob_nats):
        raise ShapeError("There are no rows", where="bits_per_dimension_metric", remedy="Score at least one row.")
    bits = bits_per_dimension(log_prob_nats, dimensions, levels_scale=levels_scale)
    return Metric(
        f"bits per dimension ({dequantisation} dequantisation, K = {importance_samples})",
        float(bits.mean()),
        error=float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else None,
        ceiling=ceiling,
        better="lower",
        unit="bits per dimension",
    )
