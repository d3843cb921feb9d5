"""Who races: the recipes of effssl, the other tools, the authors' way; and the trials of each."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from analysis.harness.presets import HALF_RESNET
from analysis.harness.training import EFFSSL, Trainer

_CONFIGS = Path(__file__).parents[2] / "configs"
OURS, PEER, AUTHORS = "effssl", "peer", "authors"
LENGTHS = (1 / 16, 1 / 8, 1 / 4, 0.4, 1.0)  # of a recipe of effssl, in parts of its epochs
TRIAL = 1 / 4  # length of a trial, as a part of the timed run


class Trial(NamedTuple):
    """One change of what a contender's documentation says: factors on its rate, its batch and its
    weight of decorrelation, and the smallest crop as a part of the image (None: its own)."""

    name: str = "as documented"
    rate: float = 1.0
    batch: float = 1.0
    weight: float = 1.0
    crop: float | None = None


class Contender(NamedTuple):
    """One that races. flags: of effssl.train, beside those of the scale. package: as it is imported
    (None: effssl's own). A side OURS is as long as its epochs, others are as long as the clock.
    lengths: at which it is timed, in parts of the whole."""

    name: str
    side: str
    flags: tuple[str, ...]
    trainer: Trainer = EFFSSL
    package: str | None = None
    install: str = ""
    lengths: tuple[float, ...] = (1.0,)

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    @property
    def trials(self) -> tuple[Trial, ...]:
        return (Trial(),) if self.side == OURS else TRIALS


# The documented batches of the others, 256 and 512 images, make few steps in minutes. A recipe of
# effssl has none here: `today` is what it was, and the trials of the others are in LOG.md.
TRIALS = (
    Trial(),
    Trial("rate x 4", rate=4),
    Trial("batch / 4", batch=1 / 4),
    Trial("batch / 4, rate x 4", rate=4, batch=1 / 4),
    Trial("batch / 4, weight x 4", batch=1 / 4, weight=4),
    Trial("batch / 4, crops from 0.3", batch=1 / 4, crop=0.3),
)

_VIEWS = (
    *("--hflip-prob", "0.5", "--jitter-prob", "0.8", "--brightness", "0.4", "--contrast", "0.4"),
    *("--saturation", "0.2", "--hue", "0.1", "--gray-prob", "0.2", "--blur-prob", "0"),
    *("--solarize-prob", "0"),
)
# configs/cifar10_cpu.yaml of commit eaf5b10, backbone and every number of it: what is gained since
# is gained on this.
TODAY = (
    *HALF_RESNET,
    *("--method", "vicreg", "--views", "4", "--proj-dim", "256", "--inv-weight", "25"),
    *("--var-weight", "25", "--cov-weight", "3.90625", "--crop-scale", "0.2", "1"),
    *("--batch-size", "64", "--optimizer", "adamw", "--lr", "0.003", "--weight-decay", "0.0001"),
    *("--warmup-epochs", "0.2", "--epochs", "3", *_VIEWS),
)
_AUTHORS = (
    *("--method", "barlow_twins", "--pairing", "authors", "--redundancy-weight", "0.0008"),
    *("--views", "2", "--proj-dim", "8192", "--proj-bias", "--batch-size", "512"),
    *("--optimizer", "adam", "--lr", "0.001", "--final-lr", "1", "--warmup-epochs", "0"),
    *("--weight-decay", "1e-6", "--hue", "0", "--saturation", "0.4", "--epochs", "1000"),
)

_TWO_VIEWS = ("--views", "2", "--proj-dim", "2048", "--norm-by-view", "--crop-scale", "0.08", "1")
_PUBLISHED = {
    "barlow": ("--method", "barlow_twins", "--redundancy-weight", "0.005"),
    "vicreg": (
        *("--method", "vicreg", "--inv-weight", "25", "--var-weight", "25"),
        *("--cov-weight", "1"),
    ),
}
_IMAGENET = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
_LIGHTLY = (
    *(*_TWO_VIEWS, *_IMAGENET, "--optimizer", "sgd", "--batch-size", "128", "--lr", "0.06"),
    *("--weight-decay", "5e-4"),
)
_SOLO = (
    *(*_TWO_VIEWS, "--optimizer", "lars", "--batch-size", "256", "--lr", "0.3"),
    *("--weight-decay", "1e-4", "--mean", "0.4914", "0.4822", "0.4465"),
    *("--std", "0.247", "0.243", "0.261"),
)
_LEJEPA = (
    *("--views", "4", "--proj-dim", "16", "--cov-weight", "0.02", "--crop-scale", "0.08", "1"),
    *(*_IMAGENET, "--optimizer", "adamw", "--batch-size", "256", "--lr", "2e-3"),
    *("--weight-decay", "5e-2"),
)


def _peer(tool: str, method: str, flags: tuple[str, ...], package: str, install: str) -> Contender:
    trainer = Trainer(f"analysis.peers.{tool}", resumes=False)
    name = f"{tool}-{method}" if method else tool
    given = (*flags, *_PUBLISHED.get(method, ()))
    return Contender(name, PEER, given, trainer, package, install)


_FROM_INDEX = "pip install -e '.[race]'"
_PINNED = "pip install --no-deps solo-learn==1.0.2 (it asks for torch 1.9.1)"
PEERS = (
    *(_peer("lightly", method, _LIGHTLY, "lightly", _FROM_INDEX) for method in _PUBLISHED),
    *(_peer("solo", method, _SOLO, "solo", _PINNED) for method in _PUBLISHED),
    _peer("lejepa", "", _LEJEPA, "lightly", _FROM_INDEX),
)
AUTHORS_WAY = Contender("authors", AUTHORS, _AUTHORS)


def _ours(name: str, *flags: str) -> Contender:
    return Contender(name, OURS, flags, lengths=LENGTHS)


class Preset(NamedTuple):
    """The scale of a race. flags: of all contenders, before their own; seconds: of the others'
    timed runs; ours: the recipes of effssl, what is compared with first, what is judged last."""

    flags: tuple[str, ...]
    seconds: float
    ours: tuple[Contender, ...]
    contenders: tuple[Contender, ...] = (*PEERS, AUTHORS_WAY)


_HALF_RESNET10 = (
    *("--backbone", "resnet18", "--stem", "small-s2", "--backbone-kwargs"),
    "{channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}",
)
_ALL = ("--precision", "fp32", "--final-images", "0", "--compile", "false", "--probe-every", "1")
_CIFAR = ("--data", "cifar10", "--image-size", "32")
RACES = {
    # An improvement is one line: _ours("small-views", *TODAY, "--small-views", "4").
    "cpu": Preset(
        (*_CIFAR, *_HALF_RESNET10, *_ALL),
        900.0,
        (
            Contender("today", OURS, TODAY),
            _ours("best", "--config", str(_CONFIGS / "cifar10_cpu.yaml")),
        ),
    ),
    "gpu": Preset(
        (*_CIFAR, "--backbone", "resnet18", "--stem", "small", *_ALL),
        900.0,
        (_ours("best", "--config", str(_CONFIGS / "cifar10.yaml")),),
    ),
    "digits": Preset(
        ("--data", "digits", *_ALL),
        8.0,
        (_ours("best", "--views", "4", "--epochs", "4"),),
    ),
}
