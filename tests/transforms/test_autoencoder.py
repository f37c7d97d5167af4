"""The autoencoder as a map: shapes, standardised codes, no density; and what it is trained on."""

import pytest
import torch

from advect.errors import ConfigError, UnsupportedError
from advect.networks import PictureClassifier
from advect.networks.convolutional import padded
from advect.objectives import CrossEntropy, Reconstruction
from advect.records import Batch
from advect.transforms import Autoencoder, Compose, Standardise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize(
    ("shape", "halvings", "code"), [((1, 28, 28), 2, (4, 7, 7)), ((3, 9, 13), 1, (4, 5, 7)), ((1, 4, 4), 0, (4, 4, 4))]
)
def test_codes_are_as_small_as_asked_and_come_back_as_pictures(shape, halvings, code):
    stage = Autoencoder(shape, halvings=halvings, width=4, generator=generator())
    x = pictures(3, *shape)
    z = stage.encode(x, log_det=False).value
    assert z.shape == (3, *code) == (3, *stage.source_shape)
    assert stage.decode(z, log_det=False).value.shape == x.shape


def test_standardised_codes_have_mean_zero_and_spread_one_and_decode_as_before():
    stage = Autoencoder((1, 8, 8), channels=3, width=4, generator=generator())
    x = pictures(200, 1, 8, 8) + 2
    before = stage.decode(stage.encode(x, log_det=False).value, log_det=False).value
    for _ in range(2):  # again on codes that are standardised already: nothing changes
        stage.standardise(stage.encode(x, log_det=False).value)
        z = stage.encode(x, log_det=False).value
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(stage.decode(z, log_det=False).value, before, atol=1e-5, rtol=1e-5)


def test_rows_do_not_depend_on_their_neighbours_and_the_seed_decides_the_weights():
    one, other = (Autoencoder((1, 8, 8), width=4, generator=generator(seed)) for seed in (0, 0))
    x = pictures(5, 1, 8, 8)
    torch.testing.assert_close(one.encode(x, log_det=False).value[2:3], other.encode(x[2:3], log_det=False).value)


def test_there_is_no_density_alone_or_in_a_chain():
    stage = Autoencoder((1, 8, 8), width=4, generator=generator())
    chain = Compose(Standardise(torch.zeros(1, 8, 8), torch.ones(1, 8, 8)), stage)
    assert chain.likelihood == "none"
    with pytest.raises(UnsupportedError, match="none of pictures"):
        chain.encode(pictures(2, 1, 8, 8))
    with pytest.raises(UnsupportedError, match="none of pictures"):
        stage.decode(pictures(2, *stage.source_shape))


def test_pictures_that_cannot_be_halved_so_often_are_refused():
    with pytest.raises(ConfigError, match="too small"):
        Autoencoder((1, 5, 28), halvings=3)
    with pytest.raises(ConfigError, match="cannot have codes"):
        Autoencoder((5,))


def test_edges_are_repeated():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert padded(x, 2)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5]]
    assert padded(x, 1) is x


def test_the_loss_of_reconstruction_is_its_formula():
    stage = Autoencoder((1, 8, 8), width=4, generator=generator())
    x = pictures(3, 1, 8, 8)
    found = Reconstruction(noise=0.5, penalty=0.25)(stage, Batch(x1=x), generator=generator(7))
    code = stage.encoder(x)
    noisy = code + 0.5 * torch.randn(code.shape, generator=generator(7))
    for row in range(3):
        off = (x[row] - stage.decoder(noisy[row : row + 1])[0]).square().mean() + 0.25 * code[row].square().mean()
        torch.testing.assert_close(found[row], off)


def test_cross_entropy_is_minus_the_log_probability_of_the_class():
    network = PictureClassifier((1, 10, 10), 3, generator())
    x, chosen = pictures(4, 1, 10, 10), torch.tensor([0, 2, 1, 1])
    found = CrossEntropy()(network, Batch(x1=x, condition=torch.eye(3)[chosen]))
    expected = -network(x).softmax(1).log()[torch.arange(4), chosen]
    torch.testing.assert_close(found, expected)
    assert network.features(x).shape == (4, 64)
    assert bool((network.features(x) >= 0).all())
