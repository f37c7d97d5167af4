"""Doors to other libraries: their flows with their weights, and our flows under their contracts.

One file per origin, which names its conventions; none of these packages is imported before it is needed, and
`from_zuko` and `from_nflows` never import theirs.

| origin | its data → noise | its condition | its time |
| --- | --- | --- | --- |
| zuko | calling the transform | context, appended to what a network looks at | none |
| nflows | ``transform(inputs, context)`` | context, gating or added inside | none |
| sbi | a density alone, in nats | the observation x (NPE) or the parameters (NLE) | data at t = 0, where there is one |
"""

from advect.adapters.nflows import from_nflows
from advect.adapters.sbi import density_estimator
from advect.adapters.zuko import from_zuko

__all__ = ["density_estimator", "from_nflows", "from_zuko"]
