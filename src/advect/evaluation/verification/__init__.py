"""Is a conditional path what it should be? `verify_path` tries its laws and says which fails, where, by how much, and
what is likely to mend it: both ends, the continuity equation point by point and in weak form, direction, agreement of
its parts, arrival at the data, singular times, and the size of the regression target. `verify_map` does the same for an
invertible map, `verify_solver` for a solver."""

from advect.evaluation.verification.maps import verify_map
from advect.evaluation.verification.record import Check, Verification
from advect.evaluation.verification.solvers import verify_solver
from advect.evaluation.verification.verify import verify_path

__all__ = ["Check", "Verification", "verify_map", "verify_path", "verify_solver"]
