"""Seeded, class-balanced choices of images; pure functions of labels and a seed."""

from __future__ import annotations

import numpy as np


def class_balanced(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Sorted positions of a random part of the images, the same part of every class.

    labels: int [n], -1 for unlabelled, which count as one class of their own. fraction in [0, 1]; the count per class
    is rounded, but to no less than one where the class has two images or more and fraction is not 0.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    chosen = []
    for positions in _by_class(labels, order):
        at_least = 1 if fraction > 0 and len(positions) > 1 else 0
        chosen.append(positions[: max(at_least, round(fraction * len(positions)))])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted positions of `count` random images of every class (all, where a class has fewer); no unlabelled ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    chosen = [positions[:count] for positions in _by_class(labels, order) if labels[positions[0]] >= 0]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def train_and_validation(labels: np.ndarray, val_fraction: float, fraction: float, seed: int):
    """Positions (train, validation): validation is cut first, from labelled images, so it is the same for every
    `fraction` of the rest. Both are sorted int64; validation is empty where nothing is labelled."""
    labelled = np.flatnonzero(labels >= 0)
    validation = labelled[class_balanced(labels[labelled], val_fraction, seed)]
    rest = np.setdiff1d(np.arange(len(labels)), validation)
    return rest[class_balanced(labels[rest], fraction, seed + 1)], validation


def epoch_order(positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The positions in the order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(positions)


def own_part(order: np.ndarray, batch: int, first_step: int, rank: int, world_size: int) -> np.ndarray:
    """Of an epoch's order, what one of `world_size` processes trains on from `first_step` on: of each whole batch every
    world_size-th image, so that all together see each of its images once."""
    whole = order[: len(order) // batch * batch].reshape(-1, batch)
    return whole[first_step:, rank::world_size].ravel()


def _by_class(labels: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    shuffled = labels[order]
    return [order[shuffled == c] for c in np.unique(shuffled)]
