"""The rows of continuous normalizing flows trained by maximum likelihood."""

from advect.methods.row import Method

CONTINUOUS: tuple[Method, ...] = ()
