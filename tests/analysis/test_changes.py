import pytest

from analysis import changes
from analysis.harness import claims, cli
from analysis.harness.methods import RULES
from analysis.harness.recipes import flags_of, name_of, scale_of
from effssl.cli import parse
from effssl.config import flat
from effssl.losses.auto_weights import resolve


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("study", changes.STUDIES)
@pytest.mark.parametrize("fraction", ["1", "0.2"])
def test_every_change_is_one_run_that_can_begin_and_differs_from_the_one_without(
    study, method, fraction, tmp_path
):
    parser = claims.parser(None)
    preset = "photographs" if study == "defaults" else "cpu"
    flags = ["--preset", preset, "--method", method, "--runs", str(tmp_path)]
    flags += ["--", "--fraction", fraction]
    scale = scale_of(cli.read_flags(parser, flags), "changes")
    listed = changes.STUDIES[study](scale)
    names = {name_of(scale, change.recipe, 0) for change in listed}
    assert len(names) == len(listed) == len({change.says for change in listed})
    for change in listed:
        changed, without = (parse(flags_of(scale, r, 0)) for r in (change.recipe, change.without))
        assert changed != without
        loss, views, part = changed.loss, changed.augment.views, changed.images.fraction
        resolved = resolve(loss, changed.model.proj_dim, views=views, part=part)
        assert isinstance(resolved.redundancy_weight, float)
        assert isinstance(resolved.cov_weight, float)


def test_the_photographs_stand_for_a_users_own_with_all_defaults_but_the_optimizer(tmp_path):
    flags = ["--preset", "photographs", "--method", "vicreg", "--runs", str(tmp_path)]
    scale = scale_of(cli.read_flags(claims.parser(None), flags), "changes")
    (without,) = {change.without for change in changes.defaults(scale)}
    of_users = flat(parse(["--data", "folder", "--data-dir", "data"]))
    of_study = flat(parse(flags_of(scale, without, 0)))
    differ = {name for name in of_users if of_users[name] != of_study[name]}
    assert differ == {
        *("image_size", "backbone_kwargs", "stem", "batch_size", "precision", "compile"),
        *("epochs", "warmup_epochs", "probe_every", "final_images"),
        *("optimizer", "lr", "decay"),  # those before this was measured
        *("proj_hidden_dim", "var_weight"),  # said in numbers, which are those of the defaults
    }
