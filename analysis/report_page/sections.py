"""What the report shows: the claims in order, and of every folder of results its command, its data
and its pictures."""

from __future__ import annotations

from typing import NamedTuple

from analysis.harness import claim_rules, support_rules
from analysis.harness.verdicts import Rule


class Section(NamedTuple):
    title: str
    claim: str  # in one sentence
    rules: tuple[Rule, ...]
    folders: tuple[str, ...]  # of the results that it shows


CLAIMS = (
    Section(
        "Orthogonality rather than width",
        "What matters is that the dimensions of the embedding are orthogonal, not that the "
        "projector is wide: with the decorrelation weight scaled up as the width goes down, d = "
        "256 does as well as d = 8192, and costs less.",
        (claim_rules.WIDTH, claim_rules.ORTHOGONALITY),
        ("projector", "orthogonality"),
    ),
    Section(
        "More views give features sooner",
        "With more views of every image, features come earlier: after fewer epochs, and in the "
        "same training time.",
        (claim_rules.VIEWS,),
        ("views",),
    ),
    Section(
        "Fewer images suffice",
        "With more views of each, a quarter to a half of the images give features as good as "
        "two views of all of them.",
        (claim_rules.SUBSET,),
        ("subset",),
    ),
    Section(
        "Together: half the time",
        "A small projector and more views reach the accuracy of the baseline (two views, d = "
        "8192) in at most half its seconds of training.",
        (claim_rules.WALLCLOCK,),
        ("wallclock",),
    ),
)
SUPPORT = (
    Section(
        "The theory, where it is exact",
        "On a small augmentation graph whose eigenfunctions are known, the losses find them, "
        "sooner with more views, and the effective rank follows weight times width.",
        (support_rules.SPANS, support_rules.ESTIMATES, support_rules.RANKS),
        ("theory",),
    ),
    Section(
        "The decorrelation rule",
        "The best decorrelation weight falls as 1/d: 3.4 / d for Barlow Twins, 40 / d of the "
        "invariance for VICReg.",
        (support_rules.WEIGHT_RULE,),
        ("weight_rule",),
    ),
    Section(
        "What a loss costs",
        "The losses take time about linear in the number of views, and less than a double loop "
        "over pairs of views.",
        (support_rules.LOSSES_COST,),
        ("losses_cost",),
    ),
    Section(
        "Loading",
        "Every image is decoded once for all its views, so these reach the encoder sooner than "
        "with other loaders.",
        (support_rules.THROUGHPUT,),
        ("throughput",),
    ),
    Section(
        "CIFAR-10 on two CPU cores",
        "A small encoder pretrained on CIFAR-10 for minutes beats its untrained self and the "
        "pixels.",
        (support_rules.BEATS_BASELINES["cifar10_cpu"],),
        ("cifar10_cpu",),
    ),
    Section(
        "Handwritten digits",
        "The demo's encoder beats its untrained self and the pixels.",
        (support_rules.BEATS_BASELINES["digits"],),
        ("digits",),
    ),
)
COMMANDS = {
    "projector": "python analysis/projector.py --data-dir DIR",
    "orthogonality": "python analysis/orthogonality.py",
    "views": "python analysis/views.py --data-dir DIR",
    "subset": "python analysis/subset.py --data-dir DIR",
    "wallclock": "python analysis/wallclock.py --data-dir DIR",
    "theory": "python analysis/theory.py",
    "weight_rule": "python analysis/weight_rule.py --data-dir DIR",
    "losses_cost": "python -m analysis.benchmarks.losses",
    "throughput": "python -m analysis.benchmarks.loading --set 32 cifar10 DIR",
    "cifar10_cpu": "python -m effssl.train --config configs/cifar10_cpu.yaml --data-dir DIR",
    "digits": "make demo",
}
# What a picture shows, for those who cannot see it.
ALT = {
    "projector.png": (
        "Linear accuracy against the projector's width and against weight times width."
    ),
    "orthogonality.png": (
        "Correlation matrices of z and h, their eigenspectra with fitted decay, rank, "
        "off-diagonal energy, alpha and accuracy through training, and the same by recipe."
    ),
    "views.png": (
        "Linear accuracy against epochs, encoded views and seconds, for each number of views."
    ),
    "subset.png": "Linear accuracy by the part of the images, for each number of views.",
    "wallclock.png": (
        "Linear accuracy against seconds of training, for the baseline and the recipes."
    ),
    "theory.png": (
        "Error of the learned span by step, of the kernel's estimate by number of views, and "
        "effective rank against weight times width: predictions as lines, measurements as points."
    ),
    "weight_rule.png": (
        "Linear accuracy against the decorrelation weight and against weight times width, and the "
        "effective rank of z, for widths 64 to 4096."
    ),
    "losses_cost.png": (
        "Milliseconds of each loss by number of views and width, beside double loops."
    ),
    "throughput.png": "Images a second by number of views, for each loader.",
    "curves.png": "Loss terms, and probe accuracy against seconds and encoded views.",
    "evaluation.png": (
        "Confusion matrix of the linear probe, and accuracy by protocol beside the baselines."
    ),
    "cka.png": "Similarity of the layers to those of the untrained backbone, by linear CKA.",
}
ALT_IMAGES = "Sample images and the views made of them."
DATA = dict.fromkeys(("projector", "views", "subset", "wallclock", "weight_rule"), "CIFAR-10")
DATA |= {"theory": "a synthetic augmentation graph", "losses_cost": "random embeddings"}
