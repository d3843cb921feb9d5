"""The settings of a run, as frozen dataclasses; cli.py reads them. Those of the other commands: commands.py.

Every field is a flag (`proj_dim` is `--proj-dim`) and a key of the flat YAML files in configs/. Settings are
grouped only to keep `--help` readable; names are unique across groups.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from effssl import InputError

SetName = Literal["digits", "cifar10", "cifar100", "stl10", "imagenet", "imagenet100", "folder"]


@dataclass(frozen=True)
class Storage:
    """Store every split of an image set as .beton files, which `python -m effssl.train` with these settings then reads.

    The defaults shown are train's too.
    """

    data: SetName = "digits"
    """Image set. `folder`: your own images, as train/CLASS/*, CLASS/* or loose; test/ or val/ may lie beside."""
    data_dir: Path = Path("data")
    """Folder of the set: torchvision's own files, or class folders train/CLASS/*; downloaded into if empty."""
    beton_dir: Path | None = None
    """Where the .beton files go (None: DATA_DIR/beton)."""
    max_side: int = 500
    """Images of varied size are stored with their longer side at most this, in pixels."""
    jpeg_quality: int = 90
    """Quality at which images of varied size are stored; small images of one size are stored raw."""
    workers: int = 2
    """Threads that load, in each process; processes that write the .beton. Results do not depend on it."""
    skip_corrupt: bool = False
    """Leave out images that cannot be stored, mostly damaged files, instead of stopping; the .json names them."""


@dataclass(frozen=True)
class Images(Storage):
    """Where the images come from."""

    fraction: float = 1.0
    """Part of the training images to use, class-balanced and seeded, in (0, 1]."""
    val_fraction: float = 0.1
    """Part of the labelled training images held out, class-balanced, for every choice; test is read once."""
    split_seed: int = 0
    """Seed of the validation split, of `fraction` and of the 10-label draws; kept apart from `seed`."""


@dataclass(frozen=True)
class Augment:
    """How K views are made of an image; parameters are drawn per image and view."""

    views: int = 4
    """Views per image, K, at least 2."""
    image_size: int = 224
    """Side of a view in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a part of the image's."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the random crop."""
    hflip_prob: float = 0.5
    """Probability of a horizontal flip."""
    jitter_prob: float = 0.8
    """Probability of colour jitter (the next four)."""
    brightness: float = 0.4
    """Factor drawn from [1 - x, 1 + x]."""
    contrast: float = 0.4
    """Factor drawn from [1 - x, 1 + x]."""
    saturation: float = 0.2
    """Factor drawn from [1 - x, 1 + x]."""
    hue: float = 0.1
    """Shift drawn from [-x, x], in turns of the colour circle."""
    gray_prob: float = 0.2
    """Probability of grayscale."""
    blur_prob: float = 0.5
    """Probability of a Gaussian blur (kernel a tenth of the side)."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels."""
    solarize_prob: float = 0.1
    """Probability of solarisation at threshold 0.5."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean that views are normalised with, RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that views are normalised with."""


@dataclass(frozen=True)
class Model:
    """timm backbone and projector."""

    backbone: str = "resnet18"
    """Any timm model name."""
    backbone_kwargs: str = "{}"
    """Further arguments of timm.create_model, as a YAML mapping: "{channels: [32, 64, 128, 256]}"."""
    stem: Literal["auto", "timm", "small", "small-s2"] = "auto"
    """timm: as published. small: 3x3 stride 1, no max-pool. small-s2: 3x3 stride 2, no max-pool. auto: small at
    64 px and below, where the model has a place for it. On ViTs and ConvNeXts, small means a smaller patch."""
    proj_dim: int = 256
    """Width d of the embedding z."""
    projector: Literal["authors", "official"] = "authors"
    """authors: two linear layers, as in arXiv 2312.10725. official: three, as in VICReg and Barlow Twins (there with
    --proj-dim 8192). The next three flags change either."""
    proj_hidden_dim: int | None = None
    """Width of the projector's hidden layers (None: proj_dim)."""
    proj_layers: int | None = None
    """Linear layers in the projector (None: 2 or 3, by `projector`)."""
    proj_norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation after each hidden linear layer."""


@dataclass(frozen=True)
class Loss:
    """What is minimised."""

    method: Literal["vicreg", "barlow_twins", "simclr", "entropy_reconstruction"] = "barlow_twins"
    """Loss on the K embeddings of every image."""
    inv_weight: float = 25.0
    """VICReg: weight of the invariance term."""
    var_weight: float | Literal["auto"] = "auto"
    """Weight of the variance term; auto is 25 for VICReg and 0 for Barlow Twins, to which it is an add-on."""
    cov_weight: float | Literal["auto"] = "auto"
    """VICReg: weight of the covariance term; auto is 40 inv_weight / proj_dim."""
    redundancy_weight: float | Literal["auto"] = "auto"
    """Barlow Twins: weight of the off-diagonal energy; auto is 3.4 / proj_dim."""
    pairing: Literal["all", "pooled"] = "all"
    """Barlow Twins: mean loss over all pairs of views, or the loss of the mean cross-correlation."""
    temperature: float = 0.2
    """SimCLR: temperature of the softmax over cosines."""
    concentration: float = 10.0
    """Entropy-reconstruction: concentration of the von Mises-Fisher densities."""
    weight_ortho: float = 0.0
    """Weight of the penalty |W W' - I|^2 on the projector's last layer."""


@dataclass(frozen=True)
class Optim:
    """Optimizer and schedule."""

    optimizer: Literal["adamw", "lars", "sgd"] = "adamw"
    """Optimizer; lars and sgd use momentum 0.9."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """Weight decay; not on biases and normalisation."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine, as a part of the peak."""
    batch_size: int = 256
    """Images per step over all devices, before views."""
    epochs: int = 100
    """Passes over the training images."""
    max_seconds: float | None = None
    """Stop after this much training time (probes excluded); the schedule still follows `epochs`."""


@dataclass(frozen=True)
class Probe:
    """Looking at the representation while training."""

    probe_every: int = 10
    """Epochs between probes on the validation split (0: only before training and at the end)."""
    probe_images: int = 10_000
    """At most this many training images are encoded for a probe on the way."""
    final_images: int = 100_000
    """At most this many training images are encoded for the probes at the end (0: none, and test is not read)."""
    probe_labels: int = 10
    """Labels per class in the few-label probe at the end."""


@dataclass(frozen=True)
class Run:
    """This run."""

    seed: int = 0
    """Seed of the weights, the order of images and the views."""
    out: Path | None = None
    """Run folder (None: runs/DATE_SET_METHOD_kVIEWS_dDIM)."""
    resume: Path | None = None
    """Run folder to go on with; its own config is used."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; the loss is in float32. auto: bf16 on CUDA, fp32 on CPU."""
    compile: Literal["auto", "true", "false"] = "auto"
    """torch.compile for backbone, projector and augmentation (under torchrun the last alone); auto: on CUDA."""
    log_every: int = 20
    """Steps between records in metrics.jsonl."""
    save_every_s: float = 300.0
    """Seconds between checkpoints; one is also written at every probe, at the end and on Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class Config:
    """Pretrain a timm backbone with a K-view loss: VICReg, Barlow Twins and baselines beside them.

    `--config FILE.yaml` reads settings from a file; flags override it. The defaults shown are those of `--data`, digits
    where none is named: `--data cifar10 --help` shows CIFAR-10's.
    """

    images: Images = field(default_factory=Images)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    probe: Probe = field(default_factory=Probe)
    run: Run = field(default_factory=Run)


_CIFAR = {
    "image_size": 32,
    "blur_prob": 0.0,
    "solarize_prob": 0.0,
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.247, 0.2435, 0.2616],
}
# What follows from the set of images; lies below --config and flags.
SET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 8,
        "crop_scale": [0.5, 1.0],
        "hflip_prob": 0.0,
        "blur_prob": 0.0,
        "solarize_prob": 0.0,
        "mean": [0.3, 0.3, 0.3],
        "std": [0.35, 0.35, 0.35],
        "backbone_kwargs": {"channels": [32, 64, 128, 256], "layers": [1, 1, 1, 1]},
        "method": "vicreg",
        "proj_dim": 64,
        "batch_size": 64,
        "lr": 3e-3,
        "epochs": 60,
        "probe_every": 20,
    },
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": {"image_size": 96, "solarize_prob": 0.0},
    "imagenet": {},
    "imagenet100": {},
    "folder": {},
}


def flat(cfg: Config) -> dict[str, Any]:
    """All settings by field name, without groups; paths as text, tuples as lists."""
    settings = {k: v for group in dataclasses.asdict(cfg).values() for k, v in group.items()}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


FIELDS = tuple(flat(Config()))
SWITCHES = frozenset(name for name, value in flat(Config()).items() if isinstance(value, bool))


def flag_of(name: str) -> str:
    """`proj_dim` -> `--proj-dim`."""
    return "--" + name.replace("_", "-")


def check_values(cfg: Config) -> None:
    """Ranges that types cannot say. Raises InputError naming the flag."""
    at_least = {
        "views": 2,
        "proj_dim": 1,
        "batch_size": 2,
        "epochs": 1,
        "image_size": 8,
        "workers": 1,
    }
    at_least |= {
        "max_side": 8,
        "log_every": 1,
        "probe_images": 1,
        "probe_labels": 1,
        "probe_every": 0,
        "final_images": 0,
    }
    unit = ["hflip_prob", "jitter_prob", "gray_prob", "blur_prob", "solarize_prob", "final_lr"]
    not_negative = ["brightness", "contrast", "saturation", "warmup_epochs", "weight_decay", "save_every_s"]
    not_negative += ["inv_weight", "weight_ortho"]
    settings = flat(cfg)
    for name, low in at_least.items():
        if settings[name] < low:
            raise InputError(f"{flag_of(name)} must be at least {low}, not {settings[name]}")
    for name in unit:
        if not 0 <= settings[name] <= 1:
            raise InputError(f"{flag_of(name)} must lie in [0, 1], not {settings[name]}")
    for name in not_negative:
        if not settings[name] >= 0:
            raise InputError(f"{flag_of(name)} must not be negative, not {settings[name]}")
    for name in ("crop_scale", "crop_ratio", "blur_sigma"):
        low, high = settings[name]
        if not 0 < low <= high:
            raise InputError(f"{flag_of(name)} must be two numbers, 0 < low <= high, not {low} {high}")
    if not 0 < cfg.images.fraction <= 1:
        raise InputError(f"--fraction must lie in (0, 1], not {cfg.images.fraction}")
    if not 0 < cfg.images.val_fraction < 1:
        raise InputError(f"--val-fraction must lie in (0, 1), not {cfg.images.val_fraction}")
    if cfg.augment.crop_scale[1] > 1:
        raise InputError(f"--crop-scale must not exceed 1, not {cfg.augment.crop_scale[1]}")
    if not 0 <= cfg.augment.hue <= 0.5:
        raise InputError(f"--hue must lie in [0, 0.5], not {cfg.augment.hue}")
    if not 0 < cfg.optim.lr < float("inf"):
        raise InputError(f"--lr must be positive, not {cfg.optim.lr}")
    if cfg.optim.max_seconds is not None and not cfg.optim.max_seconds > 0:
        raise InputError(f"--max-seconds must be positive, not {cfg.optim.max_seconds}")
    for name in ("proj_hidden_dim", "proj_layers"):
        if settings[name] is not None and settings[name] < 1:
            raise InputError(f"{flag_of(name)} must be at least 1, not {settings[name]}")
    for name in ("var_weight", "cov_weight", "redundancy_weight"):
        if settings[name] != "auto" and not settings[name] >= 0:
            raise InputError(f"{flag_of(name)} must be auto or not negative, not {settings[name]}")
    for name in ("temperature", "concentration"):
        if not 0 < settings[name] < float("inf"):
            raise InputError(f"{flag_of(name)} must be positive, not {settings[name]}")
    if not 1 <= cfg.images.jpeg_quality <= 100:
        raise InputError(f"--jpeg-quality must lie in [1, 100], not {cfg.images.jpeg_quality}")
    if not 0 <= cfg.run.seed < 2**63:
        raise InputError(f"--seed must lie in [0, 2**63), not {cfg.run.seed}")
