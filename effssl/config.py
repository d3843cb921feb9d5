"""The settings of training. Those of images and views (and of `effssl prepare`) stand in
image_config.py, of what training starts from in start_config.py, of the optimizer in
optim_config.py, of the run itself in run_config.py, of the other jobs in job_config.py.

Every field is a flag (`proj_dim` is `--proj-dim`) and a key of the flat YAML files in configs/.
Settings are grouped only to keep `--help` readable; names are unique across groups.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from effssl.image_config import Augment, Images, Sizes
from effssl.optim_config import AUTO_RATES, Optim
from effssl.ranges import (
    AUTO,
    SETTINGS,
    AtLeast0,
    AtLeast1,
    NotNegative,
    PositiveFinite,
    PublishedWeight,
    Weight,
    absolute_start,
    height_width,
)
from effssl.run_config import Run
from effssl.start_config import Branches, Start


@dataclass(frozen=True, config=SETTINGS)
class Model:
    """timm backbone and projector."""

    backbone: str = "resnet18"
    """Any timm model name; docs/backbones.md has the sizes of images that each family takes."""
    backbone_kwargs: str = "{}"
    """Further arguments of timm.create_model, a YAML mapping: "{channels: [32, 64, 128, 256]}"."""
    stem: Literal["auto", "timm", "small", "small-s2"] = "auto"
    """timm: as published. small: 3x3 stride 1, no max-pool. small-s2: 3x3 stride 2, no max-pool.
    auto: small at 64 px and below, if the model has a place for it. On ViTs and ConvNeXts, small
    means a smaller patch."""
    proj_dim: AtLeast1 = 256
    """Width d of the embedding z."""
    projector: Literal["authors", "official"] = "authors"
    """authors: two linear layers, as in arXiv 2312.10725. official: three, as in VICReg and Barlow
    Twins (there with --proj-dim 8192). The next three flags change either."""
    proj_hidden_dim: AtLeast1 | None = None
    """Width of the projector's hidden layers (None: proj_dim)."""
    proj_layers: AtLeast1 | None = None
    """Linear layers in the projector (None: 2 or 3, by `projector`)."""
    proj_norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation after each hidden linear layer."""
    proj_bias: bool = False
    """A bias in the projector's last layer. It moves only losses that scale z to unit length
    (simclr, entropy_reconstruction, and barlow_twins with --pairing authors), and vicreg beside a
    --teacher or --paired, whose projectors have biases of their own."""
    norm_by_view: bool = False
    """Send each view through the encoder by itself, so that BatchNorm's statistics in training are
    of one view, as in the official code, and not of all views together."""


@dataclass(frozen=True, config=SETTINGS)
class Loss:
    """What is minimised."""

    method: Literal["vicreg", "barlow_twins", "simclr", "entropy_reconstruction"] = "vicreg"
    """Loss on the K embeddings of every image."""
    inv_weight: NotNegative = 25.0
    """VICReg: weight of the invariance term."""
    var_weight: Weight = "auto"
    """Weight of the variance term; auto: 25 for VICReg, 0 for Barlow Twins (an add-on there)."""
    cov_weight: PublishedWeight = "auto"
    """VICReg: weight of the covariance term; auto is 40 inv_weight / proj_dim. authors: beside
    inv_weight as in arXiv 2312.10725, CIFAR-10."""
    redundancy_weight: PublishedWeight = "auto"
    """Barlow Twins: weight of the off-diagonal energy; auto is 3.4 / proj_dim. authors: that of
    arXiv 2312.10725, CIFAR-10."""
    pairing: Literal["all", "pooled", "authors"] = "all"
    """Mean loss of all pairs of views; Barlow Twins' pooled: loss of the mean cross-correlation.
    authors: VICReg or Barlow Twins as the code of arXiv 2312.10725 has it."""
    temperature: PositiveFinite = 0.2
    """SimCLR: temperature of the softmax over cosines."""
    concentration: PositiveFinite = 10.0
    """Entropy-reconstruction: concentration of the von Mises-Fisher densities."""
    weight_ortho: NotNegative = 0.0
    """Weight of the penalty |W W' - I|^2 on the projector's last layer."""

    @model_validator(mode="after")
    def _pairing_of_method(self) -> Loss:
        pairings = {"vicreg": ("all", "authors"), "barlow_twins": ("all", "pooled", "authors")}
        allowed = pairings.get(self.method, ("all",))
        if self.pairing not in allowed:
            has = " or ".join(allowed)
            raise ValueError(f"--pairing {self.pairing}: for {self.method} it is {has}")
        is_authors = self.method == "barlow_twins" and self.pairing == "authors"
        if is_authors and self.var_weight not in ("auto", 0):
            raise ValueError("--var-weight: Barlow Twins' --pairing authors has no variance term")
        return self


@dataclass(frozen=True, config=SETTINGS)
class Probe:
    """Looking at the representation while training."""

    probe_every: Annotated[int, Field(ge=0)] = 10
    """Epochs between probes on the validation split (0: only before training and at the end)."""
    probe_images: AtLeast1 = 10_000
    """Training images that are encoded for a probe on the way, if there are more: about so many, a
    part of every class, at least one."""
    final_images: Annotated[int, Field(ge=0)] = 100_000
    """Training images that are encoded at the end, likewise (0: none, and test is not read)."""
    probe_labels: AtLeast1 = 10
    """Labels per class in the few-label probe at the end."""
    stop_when_flat: AtLeast0 = 0
    """End the run after so many probes in a row that were no better than one before (0: never)."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What a probe does that finds the representations or embeddings of images nearly alike."""


@dataclass(frozen=True, config=SETTINGS)
class Config:
    """Pretrain a timm backbone with a K-view loss: VICReg, Barlow Twins and baselines beside them.

    `--config FILE.yaml` reads settings from a file; flags override it. The defaults shown are those
    of `--data`, or of digits: `--data cifar10 --help` shows CIFAR-10's.
    """

    images: Images = dataclasses.field(default_factory=Images)
    augment: Augment = dataclasses.field(default_factory=Augment)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    model: Model = dataclasses.field(default_factory=Model)
    start: Start = dataclasses.field(default_factory=Start)
    branches: Branches = dataclasses.field(default_factory=Branches)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    probe: Probe = dataclasses.field(default_factory=Probe)
    run: Run = dataclasses.field(default_factory=Run)

    @property
    def lr(self) -> float:
        """The peak learning rate: that of the settings, or the one that was measured."""
        return AUTO_RATES[self.optim.optimizer] if self.optim.lr == "auto" else self.optim.lr

    @property
    def num_views(self) -> int:
        """The views of an image that the loss compares, small ones included."""
        return self.augment.views + self.sizes.small_views

    @property
    def num_rows(self) -> int:
        """The rows of z for an image: its views, and what lies beside them."""
        return self.num_views + self.branches.count

    @model_validator(mode="after")
    def _rate_was_measured(self) -> Config:
        if self.optim.lr == "auto" and self.optim.optimizer not in AUTO_RATES:
            known = ", ".join(AUTO_RATES)
            raise ValueError(
                f"--lr auto: measured for {known}; for {self.optim.optimizer} give a number"
            )
        return self

    @model_validator(mode="after")
    def _pairs_of_views(self) -> Config:
        if self.num_views < 2:
            raise ValueError(f"--views {self.augment.views}: must be at least 2 in training")
        return self

    @model_validator(mode="after")
    def _views_of_images(self) -> Config:
        size, channels = self.augment.image_size, self.images.channels or 3
        if self.augment.quarter_turns and not isinstance(size, int):
            raise ValueError(f"--quarter-turns: views of {size[0]} x {size[1]} px are not square")
        if self.images.channels != AUTO and self.augment.channels != channels:
            raise ValueError(f"--mean and --std must be {channels} numbers, one a channel")
        return self

    @model_validator(mode="after")
    def _growing(self) -> Config:
        first, last = self.sizes.first_size, min(height_width(self.augment.image_size))
        if first is not None and first >= last:
            raise ValueError(f"--first-size {first}: must be less than the views' side, {last}")
        return self


def flat(cfg: Config) -> dict[str, Any]:
    """Return all settings by field name, without groups; paths as text, tuples as lists."""
    settings = {k: v for group in dataclasses.asdict(cfg).values() for k, v in group.items()}

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(each) for each in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in settings.items()}


def resolved(cfg: Config) -> dict[str, Any]:
    """Return the settings as `flat` does, as a run's folder keeps them and runs are compared:
    `lr` is a number, and paths are absolute."""
    settings = flat(cfg)
    settings["lr"] = cfg.lr  # a later version may have measured another
    for name in ("data_dir", "beton_dir", "paired"):
        if settings[name] is not None:
            settings[name] = str(Path(settings[name]).resolve())
    settings["more_dirs"] = [str(folder.resolve()) for folder in cfg.images.more_dirs]
    for name in ("init", "teacher"):
        if settings[name] is not None:
            settings[name] = absolute_start(settings[name])
    return settings


FIELDS = tuple(flat(Config()))


def flag_of(name: str) -> str:
    """Return the flag of a field: `proj_dim` -> `--proj-dim`."""
    return "--" + name.replace("_", "-")
