import csv
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ANALYSIS = Path(__file__).parent.parent / "analysis"
sys.path.insert(0, str(ANALYSIS))

import experiments  # noqa: E402
import probe_cost  # noqa: E402
import ring  # noqa: E402
import theory  # noqa: E402
import throughput  # noqa: E402
import weight_rule  # noqa: E402

from effssl import InputError  # noqa: E402
from effssl.losses import functional as losses  # noqa: E402


@pytest.fixture(scope="module")
def q():
    return ring.offsets(12, 2.0)


def kernel(q):
    """p(x, x') / (p(x) p(x')) of two views of one image, over the mean over views, by summing over
    images.
    """
    size = len(q)
    given = torch.stack([q.roll(i) for i in range(size)])  # [image, view]
    return given.T @ given / size * size**2 / size


def test_eigenfunctions_are_those_of_the_kernel(q):
    waves, eigenvalues = ring.eigenfunctions(q, 8)
    torch.testing.assert_close(kernel(q) @ waves, waves * eigenvalues)
    torch.testing.assert_close(waves.T @ waves / len(q), torch.eye(8, dtype=torch.float64))
    assert (eigenvalues.diff() < 1e-12).all()
    all_eigenvalues = torch.linalg.eigvalsh(kernel(q)).flip(0)
    torch.testing.assert_close(eigenvalues, all_eigenvalues[1:9])  # after the constant


def test_views_of_an_image_are_its_position_moved_by_q(q):
    views = ring.sample_views(q, 2, 200_000, torch.Generator().manual_seed(0))
    joint = (
        torch.zeros(12, 12).index_put_(tuple(views), torch.ones(200_000), accumulate=True) / 200_000
    )
    torch.testing.assert_close(joint.double() * 12, kernel(q), atol=0.01, rtol=0)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_the_predicted_error_of_an_estimate_is_that_of_all_outcomes(views):
    q, count = ring.offsets(6, 1.0), 4
    waves, eigenvalues = ring.eigenfunctions(q, count)
    expected = 0.0
    for image, *moves in itertools.product(range(6), repeat=views + 1):
        f = waves[(torch.tensor(moves) + image) % 6]
        pairs = list(itertools.permutations(f, 2))
        c = sum(torch.outer(a, b) for a, b in pairs) / len(pairs)
        expected += float(q[moves].prod() / 6 * (c - torch.diag(eigenvalues)).square().sum())
    assert ring.estimate_error(q, count, views) == pytest.approx(expected, rel=1e-9)


def test_span_error_is_0_for_the_eigenfunctions_mixed_and_1_for_others(q):
    waves, _ = ring.eigenfunctions(q, 8)
    mixed = (
        waves[:, :4] @ torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double() + 5
    )
    assert ring.span_error(mixed, waves[:, :4]) == pytest.approx(0, abs=1e-9)
    assert ring.span_error(waves[:, 4:], waves[:, :4]) == pytest.approx(1)
    assert ring.span_error(waves[:, 2:6], waves[:, :4]) == pytest.approx(0.5)


def population(q, loss, a):
    """The loss of z = waves @ a with every pair of views weighted by its probability: all of them
    are the batch.
    """
    size = len(q)
    waves, _ = ring.eigenfunctions(q, len(a))
    counts = (kernel(q) * 12 * 15).round().long()  # rounding moves probabilities by about a percent
    one, other = torch.repeat_interleave(
        torch.cartesian_prod(*[torch.arange(size)] * 2), counts.flatten(), 0
    ).T
    return loss(torch.stack([waves[one] @ a, waves[other] @ a]))


@pytest.mark.parametrize("name", ["barlow", "vicreg"])
@pytest.mark.parametrize("product", [0.5, 2.0])
def test_the_predicted_minimum_is_where_the_loss_over_all_pairs_is_least(q, name, product):
    dim, w = 4, product / 4
    eigenvalues = ring.eigenfunctions(q, dim)[1].numpy()
    if name == "barlow":
        shares = ring.barlow_spectrum(eigenvalues, dim, w)
        loss = lambda z: losses.barlow_twins(z, redundancy_weight=w).loss  # noqa: E731
    else:
        shares = ring.vicreg_spectrum(eigenvalues, dim, w)
        loss = lambda z: losses.vicreg(z, cov_weight=25 * w).loss  # noqa: E731
    a = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [a], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        value = population(q, loss, a)
        value.backward()
        return value

    optimizer.step(closure)
    variance = (
        torch.linalg.svdvals(a.detach() / (a.detach().norm(dim=0) if name == "barlow" else 1))
        .square()
        .numpy()
    )
    assert variance / variance.sum() == pytest.approx(
        np.sort(shares)[::-1] / shares.sum(), abs=0.03
    )


def test_shares_depend_on_w_times_d_at_small_w():
    eigenvalues = ring.eigenfunctions(ring.offsets(64, 8.0), 60)[1].numpy()
    ranks = [ring.rank_of_shares(ring.barlow_spectrum(eigenvalues, d, 3 / d)) for d in (30, 60)]
    assert ranks[0] == pytest.approx(ranks[1], rel=0.02)
    assert ranks[0] < ring.rank_of_shares(ring.barlow_spectrum(eigenvalues, 30, 9 / 30)) - 1


def test_theory_writes_its_tables_and_picture(tmp_path, monkeypatch, capsys):
    small = {
        "SPAN_STEPS": 40,
        "RANK_STEPS": 20,
        "ESTIMATE_DRAWS": 20,
        "PRODUCTS": (0.5, 2.0),
        "RANK_DIMS": (4, 6, 8),
    }
    for name, value in small.items():
        monkeypatch.setattr(theory, name, value)
    monkeypatch.setattr(theory.torch, "set_num_threads", lambda count: None)
    assert theory.main(["--out", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("spans.csv", "estimates.csv", "ranks.csv", "summary.md", "theory.png")
    }
    assert "| VICReg | 2.0 |" in capsys.readouterr().out
    spans = list(csv.DictReader((tmp_path / "out" / "spans.csv").open()))
    assert len(spans) == 7 * 3 * 41
    assert all(0 <= float(row["span_error"]) <= 1 for row in spans)


TINY = [
    *(
        "--data",
        "digits",
        "--image-size",
        "8",
        "--fraction",
        "0.2",
        "--epochs",
        "1",
        "--precision",
        "fp32",
    ),
    *(
        "--backbone-kwargs",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        "--probe-every",
        "0",
    ),
]


def test_the_weight_rule_trains_what_is_missing_and_reads_what_is_there(digits_dir, tmp_path):
    flags = [
        "--data-dir",
        str(digits_dir),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    flags += ["--widths", "16", "--products", "4"]
    command = [sys.executable, str(ANALYSIS / "weight_rule.py"), *flags, "--methods"]
    done = subprocess.run(
        [*command, "vicreg", "--", *TINY], check=False, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    result = tmp_path / "runs" / "vicreg_d16_wd4_s0" / "result.json"
    before = result.stat().st_mtime_ns
    done = subprocess.run(
        [*command, "vicreg", "barlow_twins", "--", *TINY],
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert result.stat().st_mtime_ns == before
    rows = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert [(r["method"], r["dim"], r["product"]) for r in rows] == [
        ("barlow_twins", "16", "4.0"),
        ("vicreg", "16", "4.0"),
    ]
    assert [float(r["weight"]) for r in rows] == [4 / 16, 4 / 16]
    assert (tmp_path / "out" / "weight_rule.png").stat().st_size > 10_000


def test_a_run_with_other_settings_is_not_taken_for_the_one_asked_for(digits_dir, tmp_path):
    flags = [*TINY, "--data-dir", str(digits_dir)]
    (tmp_path / "one").mkdir()
    other = experiments.cli.parse([*flags, "--lr", "0.5"])
    (tmp_path / "one" / "config.yaml").write_text(experiments.cli.dump(other))
    with pytest.raises(InputError, match=r"one holds a run with other settings.*lr 0.5 -> "):
        experiments.complete({"one": flags}, tmp_path)


def test_a_failing_run_is_named_with_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"bad failed.*no image"):
        (tmp_path / "images").mkdir()
        experiments.complete(
            {"bad": ["--data", "folder", "--data-dir", str(tmp_path / "images")]}, tmp_path
        )


def test_a_run_that_another_script_finishes_meanwhile_is_not_begun_again(
    digits_dir, tmp_path, monkeypatch
):
    begun = []

    def start(run, *_):
        begun.append(run.name)
        for name in ("a", "b"):  # b is the other script's
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "result.json").write_text("{}")
        return subprocess.Popen(["true"])

    monkeypatch.setattr(experiments, "_start", start)
    flags = [*TINY, "--data-dir", str(digits_dir)]
    assert experiments.complete({"a": flags, "b": flags}, tmp_path, parallel=1) == ["a", "b"]
    assert begun == ["a"]


def test_runs_stopped_by_the_clock_go_on_at_the_next_call(digits_dir, tmp_path):
    flags = {
        "long": [*TINY, "--data-dir", str(digits_dir), "--epochs", "4000", "--final-images", "0"]
    }
    assert experiments.complete(flags, tmp_path, seconds=4) == []
    first = (tmp_path / "long.log").read_text()
    for _ in range(6):  # it may take longer than that to begin
        assert experiments.complete(flags, tmp_path, seconds=15) == []
        then = (tmp_path / "long.log").read_text()
        if "stopped at step" in then:
            break
    assert then.startswith(first)
    assert "Traceback" not in then
    assert "stopped at step" in then


def test_the_summary_marks_the_best_weight_of_every_width():
    rows = [
        {
            "method": "vicreg",
            "dim": 64,
            "product": p,
            "seed": s,
            "linear": 0.5 + 0.1 * (p == 4) + 0.01 * s,
        }
        for p, s in itertools.product((1, 4), (0, 1))
    ]
    assert weight_rule._summary(rows) == [
        {"method": "VICReg", "d": 64, "w d = 1": "50.5", "w d = 4": "**60.5**"}
    ]


def test_throughput_compares_loaders_by_turns(digits_dir, tmp_path, capsys):
    sets = [
        "--set",
        "16",
        "digits",
        str(digits_dir),
        "--views",
        "2",
        "--images",
        "4",
        "--loaders",
        "torchvision",
    ]
    assert (
        throughput.main(
            [*sets, "--rounds", "2", "--turn-s", "0", "--device", "cpu", "--out", str(tmp_path)]
        )
        == 0
    )
    with (tmp_path / "throughput.csv").open() as file:
        rows = {(r["views"], r["augmentations"], r["loader"]): r for r in csv.DictReader(file)}
    both = ("effssl", "torchvision")
    assert set(rows) == {("0", "crops", "effssl"), *itertools.product("2", ("crops", "all"), both)}
    for row in rows.values():
        assert 0 < float(row["lowest"]) <= float(row["images_per_s"]) <= float(row["highest"])
        assert (row["loader"] == "effssl") == (float(row["effssl_over_it"]) == 1)
    assert rows["0", "crops", "effssl"]["images"] == "1437"
    assert "K = 2" in capsys.readouterr().out
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "flags", [["--set", "a", "digits", "."], ["--set", "8", "folder", "."], ["--rounds", "0"]]
)
def test_throughput_says_what_it_cannot_do(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert throughput.main(["--set", "8", "folder", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_probe_cost_compares_equals(finished, tmp_path):
    assert probe_cost.main([str(finished), "--out", str(tmp_path), "--repeats", "1"]) == 0
    lines = [
        line.split("|")
        for line in (tmp_path / "summary.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    rows = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines}
    assert set(rows) >= {"effssl", "scikit-learn", "scikit-learn, warm"}
    for way in ("effssl", "scikit-learn, warm"):
        validation, test = map(float, rows[way][-2:])
        # Of 142 and 360 images by an encoder of five steps: another penalty can win by one image.
        assert abs(validation - float(rows["scikit-learn"][-2])) < 5
        assert abs(test - float(rows["scikit-learn"][-1])) < 5


def test_probe_cost_of_no_run_is_one_line(tmp_path, capsys):
    assert probe_cost.main([str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
