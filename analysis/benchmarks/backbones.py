"""Which sizes of image the families of timm's models take, each looked at by one small member.

python -m analysis.benchmarks.backbones     # minutes on one core; no data, no training

A size works if `effssl train` can build the member for it (`--stem auto`) and the member sees the
image to its edges. What cannot be built is mostly known by shapes alone, on torch's meta device."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import timm
import torch
from tqdm import tqdm

from analysis.benchmarks.timm_families import FAMILIES, Member, families_of_timm
from analysis.harness import cli
from analysis.harness.tables import markdown
from effssl.models.backbones import takes_size
from effssl.models.image_sizes import published_size
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine

# Two sizes, in pixels, that are multiples of a step, and of no other step that divides it
_OF_STEP = {
    1: (97, 131),
    2: (98, 130),
    4: (100, 132),
    8: (104, 136),
    14: (98, 154),
    16: (112, 144),
    32: (96, 160),
}
_SMALL = (32, 64)


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    out = "where summary.md goes"
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"), help=out)
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _look_and_report(args), resumes=False)


def _look_and_report(args: argparse.Namespace) -> None:
    check_writable(args.out, f"--out {args.out}")  # before what takes minutes
    steps = {family: step_of(member) for family, member in tqdm(FAMILIES.items(), desc="families")}
    small = {
        family: [size for size in _SMALL if takes(FAMILIES[family], size)]
        for family in tqdm(steps, desc="small images")
    }
    text = summary(steps, small)
    write_text(args.out / "summary.md", text)
    print(text)


def takes(member: Member, side: int) -> bool:
    """Say whether images of this side, in pixels, work."""
    return takes_size(member.name, side, "auto", member.kwargs)


def step_of(member: Member) -> int | None:
    """Return the smallest step of which both sizes work; None if none does."""
    return next((s for s, sizes in _OF_STEP.items() if all(takes(member, x) for x in sizes)), None)


def summary(steps: dict[str, int | None], small: dict[str, list[int]]) -> str:
    """Return the report: families by step, and what small images they take.

    Args:
        steps: the step of every family; None if it takes none of the steps' sizes.
        small: which of the small sizes, in pixels, every family takes.
    """
    names = families_of_timm()
    lines = [
        {
            "sizes that work": _in_words(step),
            "families": len(members),
            "which (not at 32 px: *, nor at 64 px: **)": ", ".join(
                family + "*" * (0 if 32 in small[family] else 1 if 64 in small[family] else 2)
                for family in members
            ),
        }
        for step in (*_OF_STEP, None)
        if (members := [family for family in steps if steps[family] == step])
    ]
    others = [
        {"family": family, "member": FAMILIES[family].name, "its own size, px": published}
        for family, step in steps.items()
        if step is None
        for published in [published_size(FAMILIES[family].name)]
    ]
    about = machine(torch.device("cpu"))
    about["versions"] |= {"timm": timm.__version__}
    num_models = sum(map(len, names.values()))
    return (
        "# Which sizes of image timm's models take\n\n"
        f"One small member of each of {len(steps)} families (modules) of timm {timm.__version__}, "
        f"which have {num_models:,} models. Nothing is random.\n\n"
        f"{markdown(lines)}\n{markdown(others) if others else ''}\n"
        "`python -m analysis.benchmarks.backbones`\n\n"
        f"timm {timm.__version__}; torch {torch.__version__}; commit "
        f"{about['versions']['commit']}; {about['finished'][:10]}\n\n"
        f"```\n{json.dumps(about, indent=1)}\n```\n"
    )


def _in_words(step: int | None) -> str:
    match step:
        case 1:
            return "any"
        case 2:
            return "even"
        case None:
            return "few"
        case _:
            return f"multiples of {step} px"


if __name__ == "__main__":
    sys.exit(main())
