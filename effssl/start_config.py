"""The settings of what training starts from and learns from beside its views; config.py has those
of training itself."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from effssl.ranges import SETTINGS, AtLeast0, LocalPath, NotNegative, StartFrom, TeacherFrom


@dataclass(frozen=True, config=SETTINGS)
class Start:
    """What training starts from."""

    init: StartFrom | None = None
    """Weights to begin with (None: random ones of the seed). timm: the backbone's pretrained ones,
    by timm. NAME=FILE: weights on disk of the timm model NAME. A run's folder: its backbone, and
    its projector where it fits."""
    freeze_epochs: AtLeast0 = 0
    """Epochs at the beginning in which the projector alone is trained. The backbone's weights stay
    as they are; its BatchNorm's statistics follow the images."""
    keep: NotNegative = 0.0
    """Weight of the penalty sum F (theta - theta_0)^2 on how far the backbone moves from --init."""
    keep_fisher: Literal["ssl", "none"] = "ssl"
    """F in --keep. ssl: the diagonal of the Fisher information of the loss, when the backbone
    begins to move, scaled to a mean of 1 (elastic weight consolidation). none: 1 (L2-SP)."""

    @model_validator(mode="after")
    def _keep_what(self) -> Start:
        if self.keep and self.init is None:
            raise ValueError("--keep: there is nothing to keep without --init")
        return self


@dataclass(frozen=True, config=SETTINGS)
class Branches:
    """What z has rows of beside the views: a vector for each image, through its own projector."""

    teacher: TeacherFrom | None = None
    """A frozen backbone, whose representation of the clean image is such a vector: NAME=FILE,
    weights on disk of the timm model NAME, or a run's folder."""
    paired: LocalPath | None = None
    """File of such vectors by the images' names, as `effssl embed` writes it: .npz or .parquet."""

    @property
    def count(self) -> int:
        """The rows of z that they are."""
        return sum(branch is not None for branch in (self.teacher, self.paired))
