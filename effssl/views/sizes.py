"""Views of several sizes: which there are at each step, and how the views of each size are made.

Views of one size are a group, and an Augment says how they are made. The first group are the views
that `--views` counts, the second the small ones, if there are any.
"""

from __future__ import annotations

from dataclasses import replace

from effssl.image_config import Augment, Sizes
from effssl.ranges import ImageSize, height_width


def small_group(augment: Augment, sizes: Sizes) -> Augment | None:
    """Say how small views are made beside those of `augment`; None if there are none."""
    if not sizes.small_views:
        return None
    side = sizes.small_size or max(8, min(height_width(augment.image_size)) // 2)
    return replace(
        augment,
        views=sizes.small_views,
        image_size=with_shorter_side(augment.image_size, side),
        crop_scale=sizes.small_crop_scale,
    )


def growing_sizes(image_size: ImageSize, sizes: Sizes) -> list[ImageSize]:
    """Return the sizes of the first group in order of time; the last is `image_size`."""
    last = min(height_width(image_size))
    grow_by = sizes.grow_by or max(1, last // 8)
    smaller = range(sizes.first_size, last, grow_by) if sizes.first_size else ()
    return [*(with_shorter_side(image_size, side) for side in smaller), image_size]


def size_at(step: int, total_steps: int, growing: list[ImageSize], grow_until: float) -> ImageSize:
    """Return the size of the first group at a step, from 0, of `total_steps`.

    growing: see growing_sizes. All but the last have the same part of the steps before
    `grow_until`, which is a part of all steps; the last has the rest.
    """
    num_smaller = len(growing) - 1
    stage = int(num_smaller * (step / (total_steps * grow_until)))
    return growing[min(stage, num_smaller)]


def with_shorter_side(image_size: ImageSize, side: int) -> ImageSize:
    """Return a size of the same shape, in whole pixels, whose shorter side is `side`."""
    height, width = height_width(image_size)
    if height == width:
        return side
    part = side / min(height, width)
    return round(part * height), round(part * width)
