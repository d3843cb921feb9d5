"""Seeded, class-balanced choices of images; pure functions of labels and a seed."""

from __future__ import annotations

import numpy as np

HELD_OUT = 5_000  # images of a set without labels, at most: measures that need none take fewer


def class_balanced(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return sorted positions of a random part of the images, the same part of every class.

    labels: int [n], -1 for unlabelled, which count as one class of their own. fraction: in [0, 1];
    the count per class is rounded, but to no less than one if the class has two images or more and
    fraction is not 0.
    """
    chosen = []
    for positions in _shuffled_by_class(labels, seed):
        at_least = 1 if fraction > 0 and len(positions) > 1 else 0
        chosen.append(positions[: max(at_least, round(fraction * len(positions)))])
    return _sorted(chosen)


def per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return sorted positions of `count` random images of every class, all of a smaller class.

    labels: int [n], -1 for unlabelled, which are left out.
    """
    by_class = _shuffled_by_class(labels, seed)
    return _sorted([positions[:count] for positions in by_class if labels[positions[0]] >= 0])


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the fold of every image, int64 in [0, count), at random.

    Folds differ by one image at most, in all and in every class. labels: int [n].
    """
    order = np.concatenate(_shuffled_by_class(labels, seed))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % count
    return fold


def train_and_validation(
    labels: np.ndarray, val_fraction: float, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the validation split, and then choose a `fraction` of the rest to train on.

    labels: int [n], -1 for unlabelled, none of which are validated on unless nothing is labelled;
    then validation has at most HELD_OUT images. Returns (train, validation), sorted positions,
    int64; validation is the same for every `fraction`.
    """
    held = np.flatnonzero(labels >= 0)
    if len(held) == 0:
        held = np.arange(len(labels))
        val_fraction = min(val_fraction, HELD_OUT / max(1, len(held)))
    validation = held[class_balanced(labels[held], val_fraction, seed)]
    rest = np.setdiff1d(np.arange(len(labels)), validation)
    return rest[class_balanced(labels[rest], fraction, seed + 1)], validation


def of_all(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a `fraction` of all images to pretrain on, those of the validation split among them.

    labels: int [n], -1 for unlabelled. Returns sorted positions, int64.
    """
    return class_balanced(labels, fraction, seed + 1)


def epoch_order(positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the positions in the order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(positions)


def batch_ends(num_images: int, batch_size: int, drop_last: bool, fewest: int) -> np.ndarray:
    """Return for each batch of an epoch how many images there are up to its end, int64 [batches].

    drop_last: leave out what is left after the last whole batch. It is left out too if it has fewer
    images than `fewest`, which are too few to train on.
    """
    ends = np.arange(batch_size, num_images + 1, batch_size)
    left = num_images % batch_size
    is_kept = not drop_last and left >= fewest
    return np.append(ends, num_images) if is_kept else ends


def own_part(
    order: np.ndarray, ends: np.ndarray, first_step: int, rank: int, world_size: int
) -> np.ndarray:
    """Return what one of `world_size` processes trains on in an epoch, from `first_step` on.

    It is every world_size-th image of each batch of `order`, so that all processes together see
    each image of a batch once. ends: see batch_ends.
    """
    batches = np.split(order[: ends[-1]], ends[:-1])
    return np.concatenate([batch[rank::world_size] for batch in batches[first_step:]])


def _shuffled_by_class(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the positions of every class, -1 for unlabelled included, each in a random order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    return [order[shuffled == label] for label in np.unique(shuffled)]


def _sorted(parts: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))
