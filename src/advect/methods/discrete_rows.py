"""The rows of discrete normalizing flows: invertible layers fitted by maximum likelihood, with their words."""







from advect.methods.option import Option
from advect.methods.row import Method

NO_COUPLING, NO_PATH = "none: likelihood looks at data rows only", "none: the map is a chain of layers"
LIKELIHOOD = "maximum likelihood"
EQUATION = "−E log p(x)  with  log p(x) = log N(z; 0, I) + log |det ∂z/∂x|,  z = encode(x)"


def _layers(default: int) -> Option:
    return Option(default, "Number of layers.", minimum=1)


DISCRETE: tuple[Method, ...] = ()
