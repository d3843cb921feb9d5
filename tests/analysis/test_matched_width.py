"""The width whose share of the encoder is the paper's."""

import pytest

from analysis import wallclock
from analysis.harness.matched_width import backbone_cost, matched_width, papers_share
from analysis.harness.presets import CLAIMS
from effssl.cli import parse
from tests.analysis.made_runs import NO_RECORDS, TINY


def test_multiplications_are_those_that_can_be_counted_by_hand():
    kwargs = "{channels: [4, 4, 4, 8], layers: [1, 1, 1, 1]}"
    flags = ["--backbone", "resnet18", "--stem", "small", "--backbone-kwargs", kwargs]
    cost, features = backbone_cost(parse(["--data", "digits", "--image-size", "8", *flags]))
    # timm's stem has 64 channels; it and the first stage at 8 px, then two 3x3 convolutions and a
    # shortcut at 4, 2 and 1 px.
    by_hand = 64 * (9 * 3 * 64 + 9 * 64 * 4 + 9 * 16 + 64 * 4)
    by_hand += 16 * (2 * 9 * 16 + 16) + 4 * (2 * 9 * 16 + 16) + 1 * (9 * 32 + 9 * 64 + 32)
    assert (cost, features) == (by_hand, 8)


def test_the_papers_share_is_six_percent_and_the_width_has_it():
    assert papers_share() == pytest.approx(84e6 / 1.3e9, rel=0.01)
    for preset, near in (("cpu", 1300), ("scarce", 800)):
        cfg = parse(list(CLAIMS[preset].flags))
        (cost, features), width = backbone_cost(cfg), matched_width(cfg)
        assert width == pytest.approx(near, rel=0.15) and width % 16 == 0
        assert (features * width + width**2) / cost == pytest.approx(papers_share(), rel=0.03)


@pytest.mark.usefixtures("empty_pictures")
def test_wallclock_takes_it(tmp_path, capsys):
    flags = ["--runs", str(tmp_path), "--seconds", "0", "--wide", "share", "--", *TINY]
    assert wallclock.main([*NO_RECORDS, *flags]) == 0
    assert "--wide share: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        wallclock.main(["--wide", "broad"])
    assert ended.value.code == 2
