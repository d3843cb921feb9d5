from __future__ import annotations

import pytest
import torch

from effssl import losses
from tests.conftest import README, example

Z = {
    views: torch.randn(views, 12, 6, generator=torch.Generator().manual_seed(views))
    for views in (2, 4)
}


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize(
    ("module", "function", "weights"),
    [
        (
            losses.VICRegLoss(),
            losses.vicreg,
            {"inv_weight": 25.0, "var_weight": 25.0, "cov_weight": 40 * 25 / 6},
        ),
        (
            losses.VICRegLoss(2, 3),
            losses.vicreg,
            {"inv_weight": 2.0, "var_weight": 3.0, "cov_weight": 40 * 2 / 6},
        ),
        (
            losses.VICRegLoss(2, 3, 4),
            losses.vicreg,
            {"inv_weight": 2.0, "var_weight": 3.0, "cov_weight": 4.0},
        ),
        (losses.BarlowTwinsLoss(), losses.barlow_twins, {"redundancy_weight": 3.4 / 6}),
        (
            losses.BarlowTwinsLoss(0.1, "pooled", 2.0),
            losses.barlow_twins,
            {"redundancy_weight": 0.1, "pairing": "pooled", "var_weight": 2.0},
        ),
        (losses.SimCLRLoss(0.5), losses.simclr, {"temperature": 0.5}),
        (
            losses.EntropyReconstructionLoss(3.0),
            losses.entropy_reconstruction,
            {"concentration": 3.0},
        ),
    ],
)
def test_a_module_is_its_function_with_these_weights(module, function, weights, views):
    z = Z[views].clone().requires_grad_()
    expected = function(z, **weights)
    assert torch.equal(module(z), expected.loss)
    assert module.terms(z)._fields == expected._fields
    assert all(torch.equal(a, b) for a, b in zip(module.terms(z), expected, strict=True))
    as_list, as_tuple = [view.clone().requires_grad_() for view in Z[views]], tuple(Z[views])
    assert torch.equal(module(as_list), expected.loss)
    assert torch.equal(module(as_tuple), expected.loss)
    expected.loss.backward()
    module(as_list).backward()
    assert torch.equal(torch.stack([view.grad for view in as_list]), z.grad)


@pytest.mark.parametrize(
    "kind",
    [
        losses.VICRegLoss,
        losses.BarlowTwinsLoss,
        losses.SimCLRLoss,
        losses.EntropyReconstructionLoss,
    ],
)
@pytest.mark.parametrize(
    "z",
    [
        torch.zeros(5, 6),
        torch.zeros(()),
        torch.zeros(1, 5, 6),
        [torch.zeros(5, 6)],
        [],
        [torch.zeros(5, 6), torch.zeros(4, 6)],
    ],
    ids=[
        "no views",
        "a number",
        "one view",
        "a list of one view",
        "an empty list",
        "views of two shapes",
    ],
)
def test_other_shapes_are_value_errors(kind, z):
    with pytest.raises(ValueError, match="z must be"):
        kind()(z)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            losses.VICRegLoss,
            {"cov_weight": -1.0},
            "cov_weight=-1.0: Input should be greater than or equal to 0",
        ),
        (losses.VICRegLoss, {"cov_weight": "authors"}, "cov_weight='authors': only `effssl train`"),
        (losses.VICRegLoss, {"inv_weight": "much"}, "inv_weight='much': Input should be a valid n"),
        (losses.BarlowTwinsLoss, {"redundancy_weight": "authors"}, "redundancy_weight='authors': "),
        (losses.BarlowTwinsLoss, {"pairing": "authors"}, "pairing is 'all' or 'pooled', not 'auth"),
        (losses.BarlowTwinsLoss, {"pairing": "nope"}, "pairing is 'all' or 'pooled', not 'nope'"),
        (losses.SimCLRLoss, {"temperature": 0.0}, "temperature=0.0: Input should be greater than"),
        (losses.SimCLRLoss, {"temperature": -1.0}, "temperature=-1.0: Input should be greater"),
        (losses.EntropyReconstructionLoss, {"concentration": -1.0}, "concentration=-1.0: Input"),
    ],
)
def test_what_a_loss_does_not_take_is_one_line(kind, given, message):
    with pytest.raises(ValueError) as error:
        kind(**given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.slow
def test_the_loop_in_the_readme_lowers_the_loss():
    torch.manual_seed(0)
    views = torch.randn(1, 12, 3, 32, 32) + 0.3 * torch.randn(3, 12, 3, 32, 32)
    names = {"loader": [views] * 8}
    values: list[float] = []
    code = example(README, "BarlowTwinsLoss").replace(
        "loss_of(z).backward()", "noted(loss_of(z)).backward()"
    )
    names["noted"] = lambda loss: values.append(loss.item()) or loss
    exec(code, names)
    assert len(values) == 8
    assert values[-1] < 0.7 * values[0]
