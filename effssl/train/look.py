"""`effssl train --look FILE`: what the images and their views are, before hours are spent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from effssl.config import Config
from effssl.data.facts import Pixels, headers_of, pixels_of, repeated
from effssl.data.image_files import abridged
from effssl.data.sources import Source, names_of
from effssl.data.stored import SPLITS, find_split, open_sample
from effssl.evaluation.encode import spread
from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.run import pictures
from effssl.run.device import open_runtime
from effssl.run.files import check_writable
from effssl.train.found_out import with_images
from effssl.views.sizes import small_group
from effssl.views.stream import ViewStream

HEADERS = 20_000  # images whose headers are read, and
PIXELS = 2_000  # whose pixels are, at most, evenly over the set
SHOWN = 8  # images in the picture
_FAR = 0.1, 1.5  # how far mean, and by which factor std may differ from the settings'


def look(cfg: Config, file: Path) -> None:
    """Print what the images of a set are, and draw some beside their views into `file`.

    Nothing is stored but the picture. Raises InputError as training does for images that it cannot
    find.
    """
    check_writable(file.parent, f"--look {file}")
    cfg = with_images(cfg)
    images = cfg.images
    found = {split: find_split(images, split) for split in SPLITS}
    sources: dict[str, Source] = {k: source for k, source in found.items() if source is not None}
    for split, source in sources.items():
        for line in _about(source, split, cfg):
            print(line, flush=True)
    print(_about_repeated(sources, images.data_dir), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = open_sample(replace(images, skip_corrupt=True), Path(folder)).data
        stream = ViewStream(
            data.train,
            cfg.augment,
            seed=cfg.run.seed,
            batch_size=min(SHOWN, len(data.train.labels)),
            workers=images.workers,
            runtime=open_runtime("cpu"),
            small=small_group(cfg.augment, cfg.sizes),
        )
        shown = spread(np.unique(data.pretrain_positions), SHOWN)
        with closing(stream.clean(shown)) as clean, closing(stream.epoch(shown, 0)) as batches:
            groups, _ = next(batches)
            file.parent.mkdir(parents=True, exist_ok=True)
            pictures.save_views(file, next(clean), groups, cfg.augment)
    print(file)


def _about(source: Source, split: str, cfg: Config) -> Iterator[str]:
    """Say what the images of a split are, a line each."""
    yield from source.notes or [f"{split}: {len(source.labels)} images"]
    everything = np.arange(len(source.labels))
    headers = headers_of(source.images, read := spread(everything, HEADERS))
    kinds = ", ".join(f"{count} {kind}" for kind, count in headers.kinds.most_common())
    yield f"  kinds: {kinds}{_of_all(len(read), source)}"
    if len(headers.sizes):
        yield f"  sizes: {_sizes(headers.sizes, cfg.augment)}"
    if source.classes:
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
        least, most = int(counts.argmin()), int(counts.argmax())
        yield (
            f"  classes: {counts[least]} ({source.classes[least]}) to {counts[most]} "
            f"({source.classes[most]}) images, median {np.median(counts):g}"
        )
    looked = spread(everything, PIXELS)
    pixels = pixels_of(source.images, looked)
    yield from _plain(pixels, source, split, cfg.images.data_dir, len(looked))
    if split == "train" and np.isfinite(pixels.mean).all():
        yield f"  colours: {_colours(pixels, cfg.augment)}"


def _of_all(read: int, source: Source) -> str:
    return f" (of {read} of {len(source.labels)})" if read < len(source.labels) else ""


def _sizes(sizes: np.ndarray, augment: Augment) -> str:
    """Describe heights and widths, beside the views'."""
    by_area = sizes[np.argsort(sizes.prod(1), kind="stable")]
    smallest, middle, largest = (by_area[i] for i in (0, len(sizes) // 2, -1))
    text = f"all {_shape(smallest)} px"
    if (sizes != sizes[0]).any():
        text = f"{_shape(smallest)} to {_shape(largest)} px, median {_shape(middle)}"
    view = height_width(augment.image_size)
    num_smaller = int((sizes < view).any(1).sum())
    smaller = f"; {num_smaller} are smaller than the views" if num_smaller else ""
    return f"{text} (height x width; views are {_shape(view)}{smaller})"


def _shape(size: Sequence[int] | np.ndarray) -> str:
    return f"{size[0]}x{size[1]}"


def _plain(pixels: Pixels, source: Source, split: str, root: Path, looked: int) -> Iterator[str]:
    """Count images that show nothing, or that do not decode."""
    counted = {
        "nearly black": pixels.black,
        "nearly white": pixels.white,
        "of one value": pixels.flat,
    }
    said = False
    for what, positions in counted.items():
        if positions:
            names = abridged(names_of(source, np.array(positions), root, split), at_most=3)
            yield f"  {what}: {len(positions)} of {looked}: {names}"
            said = True
    if pixels.damaged:
        listed = "; ".join(pixels.damaged[:3])
        yield f"  damaged: {len(pixels.damaged)} of {looked}: {listed}"
        said = True
    if not said:
        yield f"  black, white, of one value, damaged: none of {looked}"


def _colours(pixels: Pixels, augment: Augment) -> str:
    """Say the mean and standard deviation, and whether the settings have them."""
    mean, std = (" ".join(f"{value:.3f}" for value in x) for x in (pixels.mean, pixels.std))
    away, factor = _FAR
    ratio = pixels.std / np.array(augment.std)
    is_far = (np.abs(pixels.mean - augment.mean) > away).any()
    is_far |= bool((ratio > factor).any() or (ratio < 1 / factor).any())
    text = f"mean {mean}, standard deviation {std}, of values in [0, 1]"
    if augment.normalize == "auto":
        return f"{text}, or nearly so, are what views will be normalised with"
    if not is_far:
        return f"{text}; the settings are near"
    ours = " ".join(f"{value:g}" for value in augment.mean)
    fitting = f"--mean {mean} --std {std} would fit, or --normalize auto"
    return f"{text}, where the settings have mean {ours}; {fitting}"


def _about_repeated(sources: dict[str, Source], root: Path) -> str:
    """Count images that are byte for byte others, and those of test that are trained on."""
    splits = list(sources)
    groups = repeated([source.images for source in sources.values()])
    if not groups:
        return "repeated: no image is byte for byte another"
    names = [
        [names_of(sources[splits[s]], np.array([at]), root, splits[s])[0] for s, at in group]
        for group in groups
    ]
    more = sum(len(group) - 1 for group in groups)
    across = sum(
        sum(s == 1 for s, _ in group) for group in groups if {s for s, _ in group} == {0, 1}
    )
    leak = f"; {across} of test are trained on" if across else ""
    listed = abridged([" = ".join(group[:3]) for group in names], at_most=3)
    return f"repeated: {more} images are byte for byte others{leak}: {listed}"
