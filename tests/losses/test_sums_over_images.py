import functools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effssl.losses import barlow_twins, sums_over_images, vicreg
from tests.losses.oracles import (
    LOSSES,
    assert_all_same,
    barlow_by_pairs,
    each_low_precision,
    embeddings,
    gradient_of,
    vicreg_by_pairs,
)


def test_dimensions_in_several_blocks_are_the_loops_over_pairs():
    z = embeddings(4, 400, 400)
    widths = [block.shape[2] for (block,) in sums_over_images._blocks([400], z)]
    assert len(widths) > 1
    assert widths[-1] < widths[0]
    assert_all_same(vicreg(z), vicreg_by_pairs(z), z)
    assert_all_same(
        barlow_twins(z, redundancy_weight=0.02, var_weight=3), barlow_by_pairs(z, 0.02, 3), z
    )


def assert_same_backward_inside_autocast(loss, dtype, batch, dim):
    z = embeddings(4, batch, dim, torch.float32)
    with torch.autocast("cpu", dtype):
        gradient = gradient_of(loss(z), z)
    expected = gradient_of(loss(z), z)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@each_low_precision
@pytest.mark.parametrize(
    ("name", "batch", "dim"), [("vicreg", 6, 20), ("barlow all", 6, 20), ("barlow all", 12, 7)]
)
def test_backward_inside_autocast_does_not_lower_the_precision(name, dtype, batch, dim):
    assert_same_backward_inside_autocast(LOSSES[name], dtype, batch, dim)


@pytest.mark.parametrize("name", ["vicreg", "barlow all"])
def test_nothing_of_the_size_of_z_but_z_is_kept_for_backward(name):
    z = embeddings(4, 64, 1024, torch.float32)
    storages = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: storages.append(x.untyped_storage()) or x, lambda x: x
    ):
        loss = LOSSES[name](z)
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert kept.pop(z.data_ptr()) == z.nbytes
    assert sum(kept.values()) < z.nbytes / 4
    assert gradient_of(loss, z).isfinite().all()


def multiplications(loss, views, batch, dim):
    """Count multiplications and additions in matrix products, forward and backward."""
    z = embeddings(views, batch, dim, torch.float32)
    in_place = {
        torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * math.prod(a) * b[-1]
    }  # torch counts baddbmm only
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss(z).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["vicreg", "barlow all"])
def test_matrix_products_grow_with_the_views_not_with_the_pairs(name):
    two, eight = (multiplications(LOSSES[name], views, 64, 128) for views in (2, 8))
    assert two >= 2 * 2 * (2 * 64 * 64 * 128)  # a Gram matrix for each view, and its backward
    assert eight <= 4.4 * two


@pytest.mark.parametrize(
    ("name", "naive"),
    [("vicreg", vicreg_by_pairs), ("barlow all", functools.partial(barlow_by_pairs, weight=0.02))],
)
def test_matrix_products_are_fewer_than_in_the_loop_over_pairs(name, naive):
    by_pairs = multiplications(lambda z: naive(z)[0], 8, 64, 512)
    assert multiplications(LOSSES[name], 8, 64, 512) <= by_pairs / 5


@pytest.mark.parametrize("name", ["vicreg", "barlow all", "barlow pooled"])
@pytest.mark.parametrize(("batch", "dim"), [(256, 8), (8, 256)])
def test_matrix_products_are_between_all_views_on_the_smaller_of_batch_and_dim(name, batch, dim):
    once = 2 * (4 * min(batch, dim)) ** 2 * max(batch, dim)
    assert multiplications(LOSSES[name], 4, batch, dim) <= 3 * once
