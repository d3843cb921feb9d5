"""Settings that the images decide, in numbers: with_images(cfg)."""

from __future__ import annotations

from dataclasses import replace

from effssl.config import Config
from effssl.data.windows import with_channels, with_range
from effssl.ranges import AUTO
from effssl.set_defaults import OF_RGB


def with_images(cfg: Config) -> Config:
    """Return the settings with channels and range of values as the images have them, where they are
    to be found out. Raises InputError as windows.py does."""
    images = with_range(with_channels(cfg.images))
    augment, count = cfg.augment, images.channels or 3
    if cfg.images.channels == AUTO and count != augment.channels:
        looks = {"mean": (0.5,) * count, "std": (0.25,) * count, "normalize": "auto"}
        augment = replace(augment, **looks, **OF_RGB)  # type: ignore[arg-type]
    return replace(cfg, images=images, augment=augment)
