import itertools
from pathlib import Path

import pytest

from analysis import projector, subset, views, wallclock
from analysis.harness import claims, presets, recipes, records
from analysis.harness.cli import read_flags
from analysis.harness.methods import weight_of
from analysis.harness.recipes import Recipe, Scale
from effssl import InputError, cli
from effssl.config import flat
from tests.analysis.made_runs import scale_of, scale_of_wallclock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cpu() -> Scale:
    return scale_of()


def test_epochs_for_equal_views_are_whole_or_an_error():
    whole = {
        (k, f): recipes.epochs_for(k, f, 8)
        for k, f in itertools.product((2, 4, 8), (0.25, 0.5, 1.0))
    }
    assert whole == {
        **{(2, 0.25): 16, (2, 0.5): 8, (2, 1.0): 4, (4, 0.25): 8, (4, 0.5): 4},
        **{(4, 1.0): 2, (8, 0.25): 4, (8, 0.5): 2, (8, 1.0): 1},
    }
    assert recipes.epochs_for(6, 1 / 3, 8) == 4  # a third is no binary fraction
    with pytest.raises(InputError, match=r"K = 3 on 0.5 of the images would take 5.33333 epochs"):
        recipes.epochs_for(3, 0.5, 8)


def test_each_script_trains_what_its_claim_needs(cpu):
    lengths = {(r.views, r.epochs) for r in views.recipes(cpu, [2, 4, 8])}
    assert lengths == {(8, 1), (4, 1), (4, 2), (2, 1), (2, 2), (2, 4)}
    needed, grid = subset.recipes(cpu, [2, 4, 8], [0.25, 0.5, 1.0])
    assert len(set(grid)) == 9
    assert {r.views * r.part * r.epochs for r in grid} == {8}
    assert {(r.views, r.part) for r in needed} == {(2, 0.25), (2, 0.5), (2, 1), (4, 0.5), (8, 0.25)}
    sweep = projector.recipes(cpu, [64, 256, 1024, 8192])
    by_rule, fixed = (
        [cli.parse(recipes.flags_of(cpu, r, 0)).loss for r in sweep[k]] for k in sweep
    )
    assert [loss.redundancy_weight for loss in by_rule] == ["auto"] * 4
    assert [loss.redundancy_weight for loss in fixed[:-1]] == [3.4 / 8192] * 3
    assert sweep[projector.RULE][-1] == sweep[projector.FIXED][-1]
    untuned = wallclock.recipes(scale_of_wallclock(), {})["baseline, untuned: K = 2, d = 8192"]
    assert untuned[0].weight == 0.0008


@pytest.mark.parametrize("preset", presets.CLAIMS)
@pytest.mark.parametrize("method", recipes.SHORT)
def test_every_run_of_every_scale_has_valid_flags_and_names_that_tell_them_apart(preset, method):
    scale = scale_of_wallclock("--preset", preset, "--method", method, "--seeds", "1")
    every = [
        *views.recipes(scale, [2, 4, 8]),
        *subset.recipes(scale, [2, 4, 8], [0.25, 0.5, 1.0])[1],
    ]
    every += itertools.chain(
        *projector.recipes(scale, list(presets.PROJECTOR[preset].widths)).values()
    )
    every += itertools.chain(*wallclock.recipes(scale, {}).values())
    unique = list(dict.fromkeys(every))
    assert len(unique) < len(every) - 5  # shared
    wanted = recipes.runs_of(scale, unique)
    assert len(wanted) == len(unique)
    whole = cli.parse(list(scale.flags))
    for recipe, flags in zip(
        unique[:: 6 if preset == "paper" else 3],
        list(wanted.values())[:: 6 if preset == "paper" else 3],
        strict=True,
    ):
        cfg = cli.parse(flags)
        assert (cfg.augment.views, cfg.model.proj_dim, cfg.model.proj_hidden_dim) == (
            recipe.views,
            *[recipe.dim] * 2,
        )
        assert cfg.images.fraction == pytest.approx(whole.images.fraction * recipe.part)
        assert cfg.optim.warmup_epochs == pytest.approx(
            cfg.optim.epochs * (0 if preset == "paper" else 0.1)
        )
        assert (cfg.loss.method, cfg.probe.final_images, cfg.probe.probe_every) == (method, 0, 0)
        weight = weight_of(flat(cfg))
        assert weight == pytest.approx(
            recipe.weight or (40 if method == "vicreg" else 3.4) / recipe.dim
        )


def test_names_say_what_a_run_is(cpu):
    assert (
        scale_of("--method", "vicreg").args.out
        == Path("runs/claims-cpu/views-vicreg")
        != cpu.args.out
    )
    assert recipes.name_of(cpu, Recipe(2, 256, 4), 0) == "bt_k2_d256_f1_e4_s0"
    recipe = Recipe(4, 8192, 100, 0.5, 0.0008, 512, 0.003, ("--lr", "1"), "fast")
    assert (
        recipes.name_of(scale_of("--method", "vicreg"), recipe, 2)
        == "vr_k4_d8192_w0.0008_lr0.003_f0.5_e100_b512_fast_s2"
    )


def test_the_split_goes_with_the_seed_unless_the_study_began_with_one(tmp_path):
    def split_seeds(*flags):
        scale = scale_of("--seeds", "2", *flags)
        wanted = recipes.runs_of(scale, [Recipe(2, 256, 4)]).values()
        return [cli.parse(each).images.split_seed for each in wanted]

    runs = ["--runs", str(tmp_path)]
    assert split_seeds(*runs) == [0, 1]
    committed = str(records.FOLDER / "claims-cpu.jsonl")  # of one split, with Barlow Twins alone
    assert split_seeds(*runs, "--records", committed) == [0, 0]
    assert split_seeds(*runs, "--records", committed, "--method", "vicreg") == [0, 1]
    # A study of other settings has no runs in common with it.
    assert split_seeds(*runs, "--records", committed, "--", "--norm-by-view") == [0, 1]
    begun = tmp_path / "bt_k2_d256_f1_e1_s1" / "config.yaml"
    begun.parent.mkdir()
    flags = recipes.flags_of(scale_of(), Recipe(2, 256, 1), 1)
    begun.write_text(cli.dump(cli.parse(flags)))
    assert split_seeds(*runs) == [0, 1]
    begun.write_text(cli.dump(cli.parse([*flags, "--split-seed", "0"])))
    assert split_seeds(*runs) == [0, 0]
    assert split_seeds(*runs, "--", "--lr", "0.5") == [0, 1]
    with pytest.raises(InputError, match="--split-seed: the script chooses it"):
        scale_of(*runs, "--", "--split-seed", "3")


def test_the_command_that_is_noted_names_no_folder_of_this_machine():
    given = [
        "--data-dir",
        "/a b",
        "--seeds",
        "2",
        "--runs=/c",
        "--seconds",
        "9",
        "--parallel",
        "2",
        "--out",
        "/d",
    ]
    args = read_flags(claims.parser(""), [*given, "--", "--lr", "0.1"])
    assert args.command.split(" ", 1)[1] == "--data-dir DIR --seeds 2 --parallel 2 -- --lr 0.1"
    assert (args.data_dir, args.seeds, args.further) == (Path("/a b"), 2, ["--lr", "0.1"])


@pytest.mark.parametrize("script", [views, subset, projector, wallclock])
@pytest.mark.parametrize(
    "flags",
    [
        *(["--seeds", "0"], ["--seds", "3"], ["--preset", "tpu"], ["--parallel", "x"]),
        *(["--", "--lr", "fast"], ["--", "--views", "3"], ["--out", "/dev/null/x"]),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(script, flags, tmp_path, capsys):
    try:
        code = script.main(["--runs", str(tmp_path), *flags])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert not said.out and not list(tmp_path.iterdir())
