"""The losses of arXiv 2312.10725's code, against loops over views that follow its sums."""

import itertools

import pytest
import torch

from effssl.losses import barlow_twins, barlow_twins_authors, vicreg, vicreg_authors
from tests.losses.oracles import SHAPES, assert_all_same, embeddings, off_diagonal

INV, VAR, COV = 20.0, 30.0, 2.0
RTOL = 1e-6  # 1e-10 is added to a variance before its root


def standardised_together(z):
    """Return every z at unit length, then all views as one sample of N K rows."""
    rows = torch.cat([view / view.norm(dim=1, keepdim=True) for view in z])
    return ((rows - rows.mean(0)) / rows.std(0)).chunk(len(z))


def barlow_twins_loop(z, weight):
    x = standardised_together(z)
    batch = len(x[0])
    if len(z) == 2:
        crossed = [a.T @ b / batch for a, b in itertools.permutations(x, 2)]
        on = sum((1 - c.diagonal()).square().sum() for c in crossed) / 2
        off = sum(off_diagonal(c).square().sum() for c in crossed) / 2
    else:
        mean = sum(x) / len(x)
        crossed = [a.T @ mean / batch for a in x]
        on = sum((1 - c.diagonal()).square().sum() for c in crossed) / len(x)
        off = off_diagonal(mean.T @ mean / batch).square().sum()
    return on + weight * off, on, off


def vicreg_loop(z):
    terms = []
    for a in range(len(z)):
        one, others = z[a], sum(z[b] for b in range(len(z)) if b != a) / (len(z) - 1)
        both = (one, others)
        invariance = (one - others).square().mean()
        variance = sum(torch.relu(1 - x.std(0)).mean() for x in both) / 2
        covariance = sum(off_diagonal(x.T.cov()).square().sum() / x.shape[1] for x in both)
        terms.append(torch.stack([invariance, variance, covariance]))
    invariance, variance, covariance = sum(terms) / len(terms)
    return INV * invariance + VAR * variance + COV * covariance, invariance, variance, covariance


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_the_authors_losses_are_the_loops_over_views(views, batch, dim):
    z = embeddings(views, batch, dim)
    terms = barlow_twins_authors(z, redundancy_weight=0.02)
    assert_all_same(terms[:3], barlow_twins_loop(z, 0.02), z, RTOL)
    assert terms.variance == 0
    ours = vicreg_authors(z, inv_weight=INV, var_weight=VAR, cov_weight=COV)
    assert_all_same(ours, vicreg_loop(z), z, RTOL)


def test_theirs_and_ours_agree_on_vicreg_of_two_views_alone():
    weights = {"inv_weight": INV, "var_weight": VAR, "cov_weight": COV}
    two, four = embeddings(2, 12, 7), embeddings(4, 12, 7)
    torch.testing.assert_close(
        vicreg_authors(two, **weights).loss, vicreg(two, **weights).loss, rtol=1e-4, atol=0
    )
    for ours, theirs in [
        (vicreg(four, **weights), vicreg_authors(four, **weights)),
        (
            barlow_twins(two, redundancy_weight=0.02),
            barlow_twins_authors(two, redundancy_weight=0.02),
        ),
        (
            barlow_twins(four, redundancy_weight=0.02, pairing="pooled"),
            barlow_twins_authors(four, redundancy_weight=0.02),
        ),
    ]:
        assert abs(theirs.loss / ours.loss - 1) > 0.02


def test_the_length_of_z_means_nothing_to_their_barlow_twins():
    z = embeddings(4, 12, 7).detach()
    lengths = torch.rand(4, 12, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    scaled = barlow_twins_authors(z * lengths, redundancy_weight=0.02)
    torch.testing.assert_close(scaled.loss, barlow_twins_authors(z, redundancy_weight=0.02).loss)
