"""The rows that are no flows, for comparison: `vae` and `gan`, with their words."""

from advect.flows.architectures.contrast import gan, vae
from advect.methods.contrast import Contrast
from advect.methods.discrete import NO_ODE, VectorAssembly
from advect.methods.likelihood import GRADIENT_CLIP
from advect.methods.option import Option
from advect.methods.row import Method
from advect.objectives import Adversarial

_CODE = Option(0, "Numbers in a code; 0 for as many as coordinates, at most 32.")

CONTRAST: tuple[Method, ...] = (
    Method(
        name="vae",
        title="Variational autoencoder",
        map="codes and rows drawn from one another (no flow)",
        objective="the evidence lower bound",
        equation="−E[log p(x|z) + log p(z) − log q(z|x)]  with  z ~ q(z|x) = N(μ(x), diag τ(x)²),  "
        "p(x|z) = N(m(z), diag s²)",
        paper="Kingma & Welling 2014, Auto-Encoding Variational Bayes (1312.6114), eq. 3; "
        "bound: Burda et al. 2016 (1509.00519), eq. 8",
        cost="one pass of encoder and decoder",
        avoid="the likelihood itself is wanted: there is only a bound; or rows must be sharp: each carries noise s",
        recipe=Contrast(
            VectorAssembly(vae, ("code",)),
            likelihood="bound",
            words="`encode` draws a code of the row from q(z|x), `decode` draws a row from p(x|z): neither undoes the "
            "other. Log-likelihoods are lower bounds and are called so: the evidence lower bound, and the tighter one "
            "of K importance-weighted draws. The first layer is the affine map to the Gaussian fit of the training "
            "rows.",
            width=128,
            training={"gradient_clip": GRADIENT_CLIP},
        ),
        options={"code": _CODE},
    ),
    Method(
        name="gan",
        title="Generative adversarial network",
        map="rows made from codes, one way (no flow)",
        objective="a game between generator and discriminator",
        equation="discriminator: E s(D(y) − D(x)) + γ/2 E[‖∇D(x)‖² + ‖∇D(y)‖²],  generator: E s(D(x) − D(y)),  "
        "y = G(z),  s(a) = log(1 + eᵃ)",
        paper="Goodfellow et al. 2014 (1406.2661); the loss: Huang et al. 2024, R3GAN (2501.05441), §2",
        cost="a pass of the generator, three of the discriminator and gradients of gradients",
        avoid="a likelihood or the code of a row is wanted: there is none; or all of the data must be covered",
        recipe=Contrast(
            VectorAssembly(gan, ("code",)),
            likelihood="none",
            words="`decode` makes rows from codes. There is no `encode`, no likelihood and no bound of one: `score` "
            "and `transport` refuse. The weights that are kept are those of the lowest energy score on validation "
            "rows.",
            make_objective=lambda options: Adversarial(options["penalty"]),
            width=128,
            training={"gradient_clip": 0.0, "betas": (0.0, 0.99)},
            settings={**NO_ODE, "baseline": False},
        ),
        options={"code": _CODE, "penalty": Option(1.0, "γ, weight of the discriminator's squared gradients.")},
    ),
)
