import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effssl.losses import functional as losses
from effssl.losses import sums_over_images as pair_sums
from effssl.losses.functional import (
    barlow_twins,
    entropy_reconstruction,
    redundancy_weight,
    simclr,
    vicreg,
    weight_orthogonality,
)

SHAPES = [(6, 60), (6, 20), (12, 12), (12, 7), (40, 5), (41, 5)]  # batch, dim: every way to the matrix products
TERMS = {
    "vicreg": vicreg,
    "barlow all": functools.partial(barlow_twins, redundancy_weight=0.02, var_weight=3.0),
    "barlow pooled": functools.partial(barlow_twins, redundancy_weight=0.02, var_weight=3.0, pairing="pooled"),
    "simclr": simclr,
    "entropy reconstruction": entropy_reconstruction,
}
LOSSES = {name: lambda z, terms=terms: terms(z).loss for name, terms in TERMS.items()}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
each_low_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What these sums need; more would wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def embeddings(views, batch, dim, dtype=torch.float64):
    """Related views, with means away from 0 and spreads on both sides of 1, so that the hinge is partly active."""
    generator = torch.Generator().manual_seed(views * 1000 + batch)
    image = torch.randn(batch, dim, dtype=dtype, generator=generator)
    noise = torch.randn(views, batch, dim, dtype=dtype, generator=generator)
    return ((image + 0.5 * noise) * torch.linspace(0.3, 2.0, dim, dtype=dtype) + 0.7).requires_grad_()


def off_diagonal(x):
    return x - torch.diag(x.diagonal())


def correlation(z_a, z_b):
    bn = nn.BatchNorm1d(z_a.shape[1], affine=False).to(z_a.dtype)
    return bn(z_a).T @ bn(z_b) / len(z_a)


def barlow_of(c):
    return (c.diagonal() - 1).square().sum(), off_diagonal(c).square().sum()


def official_vicreg(x, y, inv_weight, var_weight, cov_weight):
    """main_vicreg.py of facebookresearch/vicreg."""
    repr_loss = F.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(F.relu(1 - std_x)) / 2 + torch.mean(F.relu(1 - std_y)) / 2
    cov_x, cov_y = x.T @ x / (len(x) - 1), y.T @ y / (len(y) - 1)
    cov_loss = (off_diagonal(cov_x).pow(2).sum() + off_diagonal(cov_y).pow(2).sum()) / x.shape[1]
    return inv_weight * repr_loss + var_weight * std_loss + cov_weight * cov_loss


def variance_of(z):
    return sum(torch.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean() for a in z) / len(z)


def vicreg_by_pairs(z, inv_weight=25, var_weight=25, cov_weight=1):
    pairs = list(itertools.combinations(z, 2))
    invariance = sum((a - b).square().mean() for a, b in pairs) / len(pairs)
    variance = variance_of(z)
    covariance = 2 / len(z) * sum(off_diagonal(a.T.cov()).square().sum() / a.shape[1] for a in z)
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return loss, invariance, variance, covariance


def barlow_by_pairs(z, weight, var_weight=0):
    pairs = [barlow_of(correlation(a, b)) for a, b in itertools.combinations(z, 2)]
    invariance, redundancy = (sum(terms) / len(pairs) for terms in zip(*pairs, strict=True))
    variance = variance_of(z)
    return invariance + weight * redundancy + var_weight * variance, invariance, redundancy, variance


def barlow_pooled(z, weight, var_weight=0):
    between = [correlation(a, b) for a, b in itertools.permutations(z, 2)]
    invariance, redundancy = barlow_of(sum(between) / len(between))
    variance = variance_of(z)
    return invariance + weight * redundancy + var_weight * variance, invariance, redundancy, variance


def of_unit_length(z):
    """{(view, image): embedding}"""
    places = itertools.product(range(z.shape[0]), range(z.shape[1]))
    return {(a, n): z[a, n] / z[a, n].square().sum().sqrt() for a, n in places}


def simclr_by_pairs(z, temperature):
    u = of_unit_length(z)
    of_pairs, cosines = [], []
    for i, (a, n) in enumerate(u):
        others = [torch.exp(u[a, n] @ other / temperature) for j, other in enumerate(u.values()) if j != i]
        for positive in (u[b, n] for b in range(len(z)) if b != a):
            cosines.append(u[a, n] @ positive)
            of_pairs.append(-torch.log(torch.exp(cosines[-1] / temperature) / sum(others)))
    return sum(of_pairs) / len(of_pairs), sum(cosines) / len(cosines)


def nt_xent(z, temperature):
    u = F.normalize(z.flatten(0, 1), dim=1)
    similarities = (u @ u.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarities, torch.arange(len(u)).roll(len(u) // 2))


def entropy_reconstruction_by_pairs(z, concentration):
    u, (views, batch, _) = of_unit_length(z), z.shape
    between = [u[a, n] @ u[b, n] for a, b in itertools.permutations(range(views), 2) for n in range(batch)]
    reconstruction = sum(concentration * cosine for cosine in between) / len(between)
    densities = [
        sum(torch.exp(concentration * u[a, n] @ u[a, m]) for m in range(batch)) / batch
        for a, n in itertools.product(range(views), range(batch))
    ]
    entropy = -sum(map(torch.log, densities)) / len(densities)
    return -(entropy + reconstruction), entropy, reconstruction


def distance_from_identity(rows):
    """Squared, of the products of all pairs of rows."""
    return sum((a @ b - int(i == j)).square() for i, a in enumerate(rows) for j, b in enumerate(rows))


def assert_same(actual, expected, z, rtol=1e-9):
    """Value and gradient of two losses of z."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)
    one, other = gradient_of(actual, z), gradient_of(expected, z)
    assert other.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=0, atol=rtol * float(other.abs().max()))


def gradient_of(loss, z):
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


def assert_all_same(terms, expected, z):
    for one, other in zip(terms, expected, strict=True):
        assert_same(one, other, z)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_vicreg_of_two_views_is_the_official_code(batch, dim):
    z = embeddings(2, batch, dim)
    assert_same(vicreg(z, inv_weight=20, var_weight=30, cov_weight=2).loss, official_vicreg(*z, 20, 30, 2), z)
    assert_same(vicreg(z).loss, official_vicreg(*z, 25, 25, 1), z)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_barlow_twins_of_two_views_is_the_official_code(batch, dim):
    z = embeddings(2, batch, dim)
    bn = nn.BatchNorm1d(dim, affine=False).double()
    c = bn(z[0]).T @ bn(z[1])
    c = c / batch
    on_diag = torch.diagonal(c).add(-1).pow(2).sum()
    off_diag = off_diagonal(c).pow(2).sum()
    assert_same(barlow_twins(z, redundancy_weight=0.0051).loss, on_diag + 0.0051 * off_diag, z)


@pytest.mark.parametrize("views", range(2, 9))
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_losses_of_k_views_are_the_loops_over_pairs(views, batch, dim):
    z = embeddings(views, batch, dim)
    assert_all_same(vicreg(z), vicreg_by_pairs(z), z)
    assert_all_same(barlow_twins(z, redundancy_weight=0.02), barlow_by_pairs(z, 0.02), z)
    assert_all_same(barlow_twins(z, redundancy_weight=0.02, pairing="pooled"), barlow_pooled(z, 0.02), z)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_terms_are_weighted_as_asked(batch, dim):
    z = embeddings(3, batch, dim)
    weighted = {"redundancy_weight": 0.7, "var_weight": 3.0}
    assert_same(vicreg(z, inv_weight=0.3, var_weight=7, cov_weight=11).loss, vicreg_by_pairs(z, 0.3, 7, 11)[0], z)
    assert_same(barlow_twins(z, **weighted).loss, barlow_by_pairs(z, 0.7, 3)[0], z)
    assert_same(barlow_twins(z, **weighted, pairing="pooled").loss, barlow_pooled(z, 0.7, 3)[0], z)


def test_dimensions_in_several_blocks_are_the_loops_over_pairs():
    z = embeddings(4, 400, 400)
    widths = [block.shape[2] for (block,) in pair_sums._blocks([400], z)]
    assert len(widths) > 1
    assert widths[-1] < widths[0]
    assert_all_same(vicreg(z), vicreg_by_pairs(z), z)
    assert_all_same(barlow_twins(z, redundancy_weight=0.02, var_weight=3), barlow_by_pairs(z, 0.02, 3), z)


def test_pooled_noise_falls_with_the_number_of_pairs():
    """For unrelated views the correlation is 0, and each of its estimates has variance 1 / (K (K - 1) N)."""
    for views in (2, 4, 8):
        z = torch.randn(views, 200, 64, generator=torch.Generator().manual_seed(views))
        redundancy = barlow_twins(z, redundancy_weight=1.0, pairing="pooled").redundancy
        assert float(redundancy) == pytest.approx(2 * 64 * 63 / 2 / (views * (views - 1) * 200), rel=0.15)


@pytest.mark.parametrize("views", [2, 4, 8])
def test_pooled_correlation_is_unbiased(views):
    """Two dimensions: 0.8 correlated within a view, 0.5 with themselves and 0.4 with each other between views."""
    generator, mix = torch.Generator().manual_seed(views), torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    estimates = []
    for _ in range(200):
        image, noise = torch.randn(400, 2, generator=generator), torch.randn(views, 400, 2, generator=generator)
        _, diagonal, energy = losses._pooled((image + noise) @ mix, [400], eps=0)
        between = ((energy - diagonal.square().sum()) / 2).sqrt()
        estimates.append(torch.stack([*diagonal[0], between]))
    estimates = torch.stack(estimates)
    error = estimates.mean(0) - torch.tensor([0.5, 0.5, 0.4])
    assert (error.abs() < 4 * estimates.std(0) / math.sqrt(len(estimates))).all()


@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("views", [2, 4, 8])
def test_pooled_noise_is_that_of_an_intraclass_correlation(views, rho):
    """Fisher's: variance 2 (1 - rho)^2 (1 + (K - 1) rho)^2 / (K (K - 1) N). Dimensions are independent repeats."""
    batch, dim = 400, 1000
    generator = torch.Generator().manual_seed(views)
    image, noise = (torch.randn(k, batch, dim, generator=generator) for k in (1, views))
    _, diagonal, _ = losses._pooled(math.sqrt(rho) * image + math.sqrt(1 - rho) * noise, [batch], eps=0)
    variance = 2 * (1 - rho) ** 2 * (1 + (views - 1) * rho) ** 2 / (views * (views - 1) * batch)
    assert abs(float(diagonal.mean()) - rho) < 4 * math.sqrt(variance / dim)
    assert float(diagonal.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / dim))


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


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_weight_orthogonality_is_the_distance_from_orthonormal(shape):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    short, long = sorted([w, w.T], key=len)
    assert_same(weight_orthogonality(w), distance_from_identity(short), w)
    assert_same(weight_orthogonality(w) + (len(long) - len(short)), distance_from_identity(long), w)
    basis, _ = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64, generator=generator))
    for orthonormal in (basis, basis.T):
        assert float(weight_orthogonality(orthonormal)) == pytest.approx(0, abs=1e-24)


@each_loss
def test_float32_is_close_to_float64(loss):
    z = embeddings(4, 128, 256)
    torch.testing.assert_close(loss(z.float()).double(), loss(z), rtol=1e-5, atol=0)


def constant_dimensions():
    z = embeddings(3, 16, 8, torch.float32).detach()
    z[:, :, :3] = torch.tensor([0.0, 1.0, -300.0])
    return z


@each_loss
@pytest.mark.parametrize(
    "z",
    [
        constant_dimensions(),
        torch.full((3, 16, 8), 2.5),
        torch.zeros(2, 2, 4),
        embeddings(2, 2, 8, torch.float32).detach(),
        1e4 * embeddings(4, 32, 16, torch.float32).detach(),
        1e4 + embeddings(4, 32, 16, torch.float32).detach(),
    ],
    ids=["constant dimensions", "constant batch", "zeros", "batch of 2", "large", "far from 0"],
)
def test_values_and_gradients_are_finite(loss, z):
    z = z.clone().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), loss(z.double()), rtol=1e-3, atol=1e-4)


@each_loss
@each_low_precision
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_autocast_does_not_lower_the_precision(loss, dtype, batch, dim):
    z = embeddings(4, batch, dim, torch.float32)
    with torch.autocast("cpu", dtype):
        value = loss(z)
    assert value.dtype == torch.float32
    assert_same(value, loss(z), z, rtol=1e-6)


def assert_same_backward_inside_autocast(loss, dtype, batch, dim):
    z = embeddings(4, batch, dim, torch.float32)
    with torch.autocast("cpu", dtype):
        gradient = gradient_of(loss(z), z)
    expected = gradient_of(loss(z), z)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@each_low_precision
@pytest.mark.parametrize(("name", "batch", "dim"), [("vicreg", 6, 20), ("barlow all", 6, 20), ("barlow all", 12, 7)])
def test_backward_inside_autocast_does_not_lower_the_precision(name, dtype, batch, dim):
    assert_same_backward_inside_autocast(LOSSES[name], dtype, batch, dim)


@each_low_precision
def test_weight_orthogonality_is_taken_in_float32(dtype):
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", dtype):
        value = weight_orthogonality(w)
    assert value.dtype == weight_orthogonality(w.to(dtype)).dtype == torch.float32
    assert_same(value, weight_orthogonality(w), w, rtol=1e-6)


@each_loss
@each_low_precision
def test_embeddings_of_low_precision_are_taken_in_float32(loss, dtype):
    z = embeddings(4, 32, 16).detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        value = loss(z)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(z.float()), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["vicreg", "barlow all"])
def test_nothing_of_the_size_of_z_but_z_is_kept_for_backward(name):
    z = embeddings(4, 64, 1024, torch.float32)
    storages = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: storages.append(x.untyped_storage()) or x, lambda x: x):
        loss = LOSSES[name](z)
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert kept.pop(z.data_ptr()) == z.nbytes
    assert sum(kept.values()) < z.nbytes / 4
    assert gradient_of(loss, z).isfinite().all()


def multiplications(loss, views, batch, dim):
    """In matrix products, forward and backward, times 2."""
    z = embeddings(views, batch, dim, torch.float32)
    in_place = {torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * math.prod(a) * b[-1]}  # torch counts baddbmm only
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss(z).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["vicreg", "barlow all"])
def test_matrix_products_grow_with_the_views_not_with_the_pairs(name):
    two, eight = (multiplications(LOSSES[name], views, 64, 128) for views in (2, 8))
    assert two >= 2 * 2 * (2 * 64 * 64 * 128)  # a Gram matrix for each view, and its backward
    assert eight <= 4.4 * two


@pytest.mark.parametrize(
    ("name", "naive"), [("vicreg", vicreg_by_pairs), ("barlow all", functools.partial(barlow_by_pairs, weight=0.02))]
)
def test_matrix_products_are_fewer_than_in_the_loop_over_pairs(name, naive):
    by_pairs = multiplications(lambda z: naive(z)[0], 8, 64, 512)
    assert multiplications(LOSSES[name], 8, 64, 512) <= by_pairs / 5


@pytest.mark.parametrize("name", ["vicreg", "barlow all", "barlow pooled"])
@pytest.mark.parametrize(("batch", "dim"), [(256, 8), (8, 256)])
def test_matrix_products_are_between_all_views_on_the_smaller_of_batch_and_dim(name, batch, dim):
    once = 2 * (4 * min(batch, dim)) ** 2 * max(batch, dim)
    assert multiplications(LOSSES[name], 4, batch, dim) <= 3 * once


@each_loss
def test_order_of_views_does_not_matter(loss):
    z = embeddings(5, 16, 8)
    assert_same(loss(z[[3, 0, 4, 1, 2]]), loss(z), z)


@each_loss
@pytest.mark.parametrize("shape", [(8, 4), (1, 8, 4), (2, 1, 4), (2, 2, 8, 4)])
def test_other_shapes_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"views >= 2.*" + ", ".join(map(str, shape))):
        loss(torch.zeros(shape))


def test_other_pairings_are_refused():
    with pytest.raises(ValueError, match="'nope'"):
        barlow_twins(torch.randn(2, 4, 3), redundancy_weight=1.0, pairing="nope")


def test_redundancy_weight_follows_the_published_ones():
    published = {64: 0.04, 128: 0.04, 256: 0.02, 512: 0.01, 1024: 0.001, 2048: 0.001, 4096: 0.0004, 8192: 0.0008}
    errors = [math.log(redundancy_weight(dim) / weight) for dim, weight in published.items()]
    assert abs(sum(errors) / len(errors)) < 0.2
    assert max(map(abs, errors)) < math.log(3.5)
    assert redundancy_weight(512) == pytest.approx(redundancy_weight(256) / 2)
