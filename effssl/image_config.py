"""The settings of images and of the views that are made of them; config.py has the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from effssl.ranges import (
    SETTINGS,
    AtLeast0,
    AtLeast1,
    AtLeast8,
    ChannelsOrAuto,
    ImageSize,
    JpegQuality,
    LoaderName,
    LocalPath,
    MeasuredRange,
    Normalizing,
    NotNegative,
    Part,
    PositiveFinite,
    Probability,
    Range,
    RangeTo1,
    SetName,
    StoredSide,
    Storing,
)


@dataclass(frozen=True, config=SETTINGS)
class Storage:
    """Store every split of an image set as .beton files, which training with the same flags reads.

    The defaults shown are train's too.
    """

    data: SetName = "digits"
    """Image set. `folder`: your own images, as train/CLASS/*, CLASS/* or loose; test/ or val/ may
    lie beside (also training, valid, validation, dev, testing; in any case), in a folder, a .zip or
    a .tar. `list`: those that a file lists. `hf`: those within Parquet or Arrow files, as Hugging
    Face datasets are kept."""
    data_dir: LocalPath = Path("data")
    """Folder of the set: torchvision's files or train/CLASS/*; downloaded into if it is empty. Of
    `list` the file: CSV, TSV or Parquet with columns path, and perhaps label and split."""
    beton_dir: LocalPath | None = None
    """Where the .beton files go (None: DATA_DIR/beton)."""
    more_dirs: tuple[LocalPath, ...] = ()
    """Further folders or files of `folder`, `list` and `hf`, which are one set with `data_dir`."""
    max_side: StoredSide = 500
    """Images of varied size are stored with their longer side at most this, in pixels."""
    store: Storing = "auto"
    """auto: small images of one size are stored raw, others as JPEG. lossless: all raw, so that no
    pixel changes but where `max_side` makes images smaller; it takes several times the bytes."""
    jpeg_quality: JpegQuality = 90
    """JPEG quality of what is stored as JPEG."""
    workers: AtLeast1 | None = None
    """Threads that load, in each process; processes that write the .beton. It alters no result.
    None: as many as there are cores for each process of a machine, or to load on a CPU, where the
    encoder needs them, a quarter as many; at most 8."""
    loader: LoaderName = "auto"
    """What reads and writes the .beton: FFCV, or threads of this process, which need no FFCV. JPEGs
    are decoded and encoded by other libraries then, which round differently. auto: FFCV if it can
    be imported."""
    skip_corrupt: bool = False
    """Leave out images that cannot be stored, mostly damaged files; the .json names them."""
    channels: ChannelsOrAuto | None = None
    """Channels of the images, or auto: what their headers say. They are then stored without loss,
    in 8 or 16 bits or float32, and seen as they are: TIFF, PNG, .npy and others. Views are
    normalised with measured `mean` and `std`, and their hue and saturation stay, unless these are
    given. None: RGB of 8 bits."""
    gray_range: MeasuredRange | None = None
    """Values that are black and white in gray of more than 8 bits, and with `channels` in colours
    too (None: 0 and 65535 for 16 bits; others are an error). auto: the percentiles 0.1 and 99.9 of
    64 images."""
    trust_store: bool = False
    """Take what is stored for what lies in the folders, without looking at any file again: for sets
    of millions on slow disks. What has changed since is not seen."""
    max_image_gib: PositiveFinite = 8.0
    """Memory that decoding an image may take, in GiB (24 bytes a pixel); larger ones are named."""
    labels: bool = True
    """Folders are classes; --no-labels: they mean nothing, and no image has a label."""
    image_column: str | None = None
    """Column of `hf` with the images (None: the one that has any)."""
    label_column: str | None = None
    """Column of `hf` with the labels (None: `label`, or the one of class labels)."""


@dataclass(frozen=True, config=SETTINGS)
class Images(Storage):
    """Where the images come from."""

    fraction: Part = 1.0
    """Part of the training images to use, class-balanced and seeded, in (0, 1]."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Class-balanced part of the labelled training images kept for choices; test is read once."""
    hold_out: bool = True
    """Keep that part out of pretraining too. Else it is pretrained on, without its labels, as in
    most published figures, and the probes are still fitted on the rest."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the validation split, `fraction` and the 10-label draws; kept apart from `seed`."""


@dataclass(frozen=True, config=SETTINGS)
class Augment:
    """How K views are made of an image; parameters are drawn per image and view."""

    views: AtLeast1 = 4
    """Views per image, K; at least 2 in training."""
    image_size: ImageSize = 224
    """Side of a view in pixels; HEIGHT WIDTH for views that are not square."""
    crop_scale: RangeTo1 = (0.08, 1.0)
    """Area of the random crop as a part of the image's."""
    crop_ratio: Range = (0.75, 4 / 3)
    """Width over height of the random crop, as a multiple of the view's: 1 stretches nothing."""
    hflip_prob: Probability = 0.5
    """Probability of a horizontal flip."""
    vflip_prob: Probability = 0.0
    """Probability of a vertical flip."""
    quarter_turns: bool = False
    """Turn views by 0, 90, 180 or 270 degrees, each as often; they have to be square."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees: views are rotated by an angle drawn from [-x, x]. Beyond its border a view is
    reflected."""
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Degrees: views are sheared along both sides by angles drawn from [-x, x]."""
    affine_scale: Range = (1.0, 1.0)
    """Range of the factor that views are magnified by about their centre, below 1 with reflected
    borders; crops magnify too."""
    jitter_prob: Probability = 0.8
    """Probability of colour jitter (the next four)."""
    brightness: NotNegative = 0.4
    """Factor drawn from [1 - x, 1 + x]."""
    contrast: NotNegative = 0.4
    """Factor drawn from [1 - x, 1 + x]."""
    saturation: NotNegative = 0.2
    """Factor drawn from [1 - x, 1 + x]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Shift drawn from [-x, x], in turns of the colour circle."""
    gray_prob: Probability = 0.2
    """Probability of grayscale."""
    blur_prob: Probability = 0.5
    """Probability of a Gaussian blur (kernel a tenth of the shorter side)."""
    blur_sigma: Range = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels."""
    solarize_prob: Probability = 0.1
    """Probability of solarisation at threshold 0.5."""
    erase_prob: Probability = 0.0
    """Probability that a rectangle of a view is set to the mean colour."""
    erase_scale: RangeTo1 = (0.02, 0.33)
    """Its area as a part of the view's; width over height lies in [0.3, 3.3]."""
    rand_augment: tuple[AtLeast1, Annotated[int, Field(ge=0, le=30)]] | None = None
    """RandAugment of every view, after all that is above: N operations, each of magnitude M, 0 to
    30. 2 9 is usual."""
    transform: str | None = None
    """A function of your own, MODULE:FUNCTION or FILE.py:FUNCTION, that makes float images
    [n, c, h, w] in [0, 1] of such, on the device, after all that is above. A file of settings that
    names one does not run it: the command line has to name it too."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean that views are normalised with, RGB in [0, 1], or one for each of the `channels`."""
    std: tuple[PositiveFinite, ...] = (0.229, 0.224, 0.225)
    """Standard deviation that views are normalised with; of images of one value, take 1."""
    normalize: Normalizing = "given"
    """auto: `mean` and `std` are measured on the training images when a run begins, and its
    config.yaml has them."""

    picture_bands: tuple[AtLeast0, AtLeast0, AtLeast0] | None = None
    """Channels that pictures show as red, green and blue, counted from 0 (None: the first three; of
    one or two the first, in gray)."""

    @property
    def channels(self) -> int:
        """The channels of a view."""
        return len(self.mean)

    @model_validator(mode="after")
    def _of_channels(self) -> Augment:
        count = self.channels
        if len(self.std) != count or count == 0:
            raise ValueError(
                f"--mean and --std must be as many numbers, not {count} and {len(self.std)}"
            )
        wanting = [name for name in ("hue", "saturation", "gray_prob") if getattr(self, name)]
        if count != 3 and wanting:
            raise ValueError(f"{', '.join(wanting)}: must be 0, as {count} channels are no RGB")
        if count not in (1, 3) and self.rand_augment is not None:
            raise ValueError(f"--rand-augment: takes gray or RGB, not {count} channels")
        if self.picture_bands is not None and max(self.picture_bands) >= count:
            raise ValueError(f"--picture-bands: must be less than {count}, counted from 0")
        return self


@dataclass(frozen=True, config=SETTINGS)
class Sizes:
    """Views of several sizes in training: small ones beside the others, smaller ones at first."""

    small_views: Annotated[int, Field(ge=0)] = 0
    """Further views per image, which are small; to the loss a view is a view. At half the side one
    costs a quarter."""
    small_size: AtLeast8 | None = None
    """Shorter side of a small view in pixels (None: half of the others', at least 8)."""
    small_crop_scale: RangeTo1 = (0.08, 0.5)
    """Area of a small view's random crop as a part of the image's."""
    first_size: AtLeast8 | None = None
    """Shorter side of the views at first, in pixels; it grows until they have `image_size` (None:
    they always have)."""
    grow_by: AtLeast1 | None = None
    """Pixels by which it grows at a time (None: an eighth of the last)."""
    grow_until: Part = 0.8
    """Part of the steps that have grown through all sizes but the last, with as many steps each."""
