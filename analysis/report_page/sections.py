"""What the report shows: the claims in order, and of every folder of results its command, its data
and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from analysis.harness import claim_rules, support_rules
from analysis.harness.methods import MEASURED, OF_CLAIMS, folder_of
from analysis.harness.rules import Rule


class Section(NamedTuple):
    title: str
    claim: str  # in one sentence
    rules: tuple[Rule, ...]
    folders: tuple[str, ...]  # of the results that it shows
    how: str = ""  # a claim is measured, in MEASURED

    @property
    def heading(self) -> str:
        """The title, with how a claim is measured: each is judged by itself."""
        return f"{self.title}, {MEASURED[self.how].name}" if self.how else self.title


def claims_as(how: str) -> tuple[Section, ...]:
    """Return the four claims as they are measured with a method, or elsewhere."""
    return tuple(
        Section(title, claim, (rules[how],), (folder_of(command, how),), how)
        for command, (title, claim, rules) in _CLAIMS.items()
    )


def measured_claims(results: Path) -> tuple[Section, ...]:
    """Return each claim in every way that it was measured; if there is none, in that of the claims'
    commands."""
    sections: list[Section] = []
    for of_claim in zip(*(claims_as(how) for how in MEASURED), strict=True):
        there = [s for s in of_claim if (results / s.folders[0]).is_dir()]
        sections += there or [s for s in of_claim if s.how == OF_CLAIMS]
    return tuple(sections)


_CLAIMS = {
    "projector": (
        "Orthogonality rather than width",
        "What matters is that the dimensions of the embedding are orthogonal, not that the "
        "projector is wide: with the decorrelation weight scaled up as the width goes down, d = "
        "256 does as well as d = 8192, and costs less.",
        claim_rules.WIDTH,
    ),
    "views": (
        "More views give features sooner",
        "With more views of every image, features come earlier: after fewer epochs, and in the "
        "same training time.",
        claim_rules.VIEWS,
    ),
    "subset": (
        "Fewer images suffice",
        "With more views of each, a quarter to a half of the images give features as good as "
        "two views of all of them.",
        claim_rules.SUBSET,
    ),
    "wallclock": (
        "Together: half the time",
        "A small projector and more views reach the accuracy of the baseline (two views, a "
        "projector as wide as the paper's or as large a part of the encoder, its rate chosen too) "
        "in at most half its seconds of training.",
        claim_rules.WALLCLOCK,
    ),
}
SUPPORT = (
    Section(
        "What the weight does",
        "At one width, a decorrelation weight far below the rule's costs orthogonality and "
        "accuracy.",
        (support_rules.ORTHOGONALITY,),
        ("orthogonality",),
    ),
    Section(
        "The theory, where it is exact",
        "On a small augmentation graph whose eigenfunctions are known, the losses find them, "
        "after fewer steps with more views, and the effective rank follows weight times width.",
        (support_rules.SPANS, support_rules.ESTIMATES, support_rules.RANKS),
        ("theory",),
    ),
    Section(
        "The noise of the gradient",
        "At as many encoded views, batches of more views make less noise in the gradient.",
        (support_rules.GRADIENT_NOISE,),
        ("gradient_noise",),
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
    folder_of(command, how): f"python analysis/{command}.py --data-dir DIR{measured.flags}"
    for command in _CLAIMS
    for how, measured in MEASURED.items()
}
COMMANDS |= {
    "orthogonality": "python analysis/orthogonality.py",
    "theory": "python analysis/theory.py",
    "gradient_noise": "python analysis/gradient_noise.py --data-dir DIR",
    "weight_rule": "python analysis/weight_rule.py --data-dir DIR",
    "losses_cost": "python -m analysis.benchmarks.losses",
    "throughput": "python -m analysis.benchmarks.loading --set 32 cifar10 DIR",
    "cifar10_cpu": "effssl train --config configs/cifar10_cpu.yaml --data-dir DIR",
    "digits": "make demo",
}
# What a picture shows, for those who cannot see it.
ALT = {
    "race.png": "Linear accuracy against seconds of training: effssl's recipes, other tools.",
    "scaling.png": (
        "Megabytes that a GPU sends in a step, and milliseconds by a model, against 8 to 512 GPUs, "
        "for a projector 8192 wide with two views and one 256 wide with four."
    ),
    "gradient_noise.png": (
        "Variance of the gradient, and its cosine to a reference, against the encoded views of a "
        "batch, for each number of views, at three times of training."
    ),
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
    "rates.png": "Linear accuracy against the learning rate: a line a batch, a panel for each K.",
    "label_free.png": "Linear accuracy against each measure without labels, a point a run.",
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
DATA = {
    folder_of(command, how): "Imagenette" if how == "photographs" else "CIFAR-10"
    for command in _CLAIMS
    for how in MEASURED
}
DATA |= {"weight_rule": "CIFAR-10"}
DATA |= {"theory": "a synthetic augmentation graph", "losses_cost": "random embeddings"}
