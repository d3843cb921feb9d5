import pytest

from effssl.losses import entropy_reconstruction, simclr
from tests.losses.oracles import (
    assert_all_same,
    assert_same,
    embeddings,
    entropy_reconstruction_by_pairs,
    nt_xent,
    simclr_by_pairs,
)


@pytest.mark.parametrize("views", range(2, 6))
@pytest.mark.parametrize("temperature", [0.2, 0.7])
def test_simclr_is_the_loop_over_embeddings(views, temperature):
    z = embeddings(views, 4, 6)
    assert_all_same(simclr(z, temperature=temperature), simclr_by_pairs(z, temperature), z)


@pytest.mark.parametrize("temperature", [0.2, 0.7])
def test_simclr_of_two_views_is_nt_xent(temperature):
    z = embeddings(2, 12, 7)
    assert_same(simclr(z, temperature=temperature).loss, nt_xent(z, temperature), z)


@pytest.mark.parametrize("views", range(2, 6))
@pytest.mark.parametrize("concentration", [10.0, 3.0])
def test_entropy_reconstruction_is_the_loop_over_images(views, concentration):
    z = embeddings(views, 5, 6)
    expected = entropy_reconstruction_by_pairs(z, concentration)
    assert_all_same(entropy_reconstruction(z, concentration=concentration), expected, z)


def test_entropy_reconstruction_bounds_no_information_where_all_embeddings_are_equal():
    z = embeddings(1, 1, 6).detach().expand(3, 5, 6)
    loss, entropy, reconstruction = entropy_reconstruction(z, concentration=4.0)
    assert (float(entropy), float(reconstruction)) == pytest.approx((-4, 4))
    assert float(loss) == pytest.approx(0, abs=1e-12)
