"""Settings that the images decide, in numbers: with_images(cfg)."""

from __future__ import annotations

from dataclasses import replace

from effssl.config import Config
from effssl.data.windows import with_channels, with_range
from effssl.image_config import Augment
from effssl.ranges import AUTO
from effssl.set_defaults import for_channels


def with_images(cfg: Config) -> Config:
    """Return the settings with channels and range of values as the images have them, where they are
    to be found out. Raises InputError as windows.py does."""
    images = with_range(with_channels(cfg.images))
    augment, count = cfg.augment, images.channels or 3
    if cfg.images.channels == AUTO and count != augment.channels:
        augment = replace(augment, **for_channels(count))
    elif cfg.images.channels == AUTO and images.channels is not None and not _are_given(augment):
        augment = replace(augment, normalize="auto")
    return replace(cfg, images=images, augment=augment)


def _are_given(augment: Augment) -> bool:
    """Say whether mean and deviation are others than the defaults of RGB of 8 bits."""
    return augment.mean != Augment().mean and augment.std != Augment().std
