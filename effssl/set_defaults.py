"""Settings that follow from the images; YAML files and flags override them."""

from __future__ import annotations

from typing import Any

from effssl.ranges import MOST_CHANNELS

_CIFAR = {
    "image_size": 32,
    "blur_prob": 0.0,
    "solarize_prob": 0.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.247, 0.2435, 0.2616),
}
# From random weights, as was measured on photographs (docs/measurements.md).
_OWN_IMAGES = {"optimizer": "muon", "lr": 2e-2, "decay": "linear"}
SET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 8,
        "crop_scale": (0.5, 1.0),
        "hflip_prob": 0.0,
        "blur_prob": 0.0,
        "solarize_prob": 0.0,
        "mean": (0.3, 0.3, 0.3),
        "std": (0.35, 0.35, 0.35),
        "backbone_kwargs": "{channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}",
        "proj_dim": 64,
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 3e-2,
        "epochs": 20,
        "probe_every": 5,
    },
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": {"image_size": 96, "solarize_prob": 0.0},
    "imagenet": {},
    "imagenet100": {},
    "folder": _OWN_IMAGES,
    "list": _OWN_IMAGES,
    "hf": _OWN_IMAGES,
}


_OTHERS = {
    str(count) for count in range(1, MOST_CHANNELS + 1) if count != 3
}  # numbers of channels that are no RGB
OF_RGB = {"hue": 0.0, "saturation": 0.0, "gray_prob": 0.0}  # off for all other images


def defaults_for(data: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults for a set beside what is given, settings as texts.

    Images of other channels than RGB are changed in nothing that is for RGB alone. Mean and
    deviation of all whose channels are kept are measured, unless both are given. A set's rate is
    that of its optimizer, so another optimizer has its own; and what was measured from random
    weights is not for a user's own images with `init`.
    """
    of_set, channels = SET_DEFAULTS.get(data, {}), given.get("channels")
    is_other = given.get("optimizer", of_set.get("optimizer")) != of_set.get("optimizer")
    has_init = given.get("init", "None") != "None"  # null in a file of settings is this text too
    if is_other or (of_set is _OWN_IMAGES and has_init):
        of_set = {name: value for name, value in of_set.items() if name not in _OWN_IMAGES}
    are_given = {"normalize": "given"} if {"mean", "std"} <= given.keys() else {}
    if channels == "3":
        return of_set | {"normalize": "auto"} | are_given
    if _is_rgb(channels):
        return of_set
    return of_set | for_channels(int(channels or 3)) | are_given


def for_channels(count: int) -> dict[str, Any]:
    """Return the settings of views of so many channels, no RGB, before they are measured."""
    return {"mean": (0.5,) * count, "std": (0.25,) * count, "normalize": "auto"} | OF_RGB


def that_apply(in_files: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what files of settings say without what their images have no use for, such as colours
    of a kind of images that may have other channels; given: all that files and flags say."""
    if _is_rgb(given.get("channels")):
        return in_files
    return {name: value for name, value in in_files.items() if name not in OF_RGB}


def without_found_out(given: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Return what is given without what a run has found out of its images, where that is asked for
    again: `saved`, the run's own settings as texts, has it in numbers."""
    found = {name for name in ("channels", "gray_range") if given.get(name) in ("auto", ["auto"])}
    if given.get("normalize") == "auto":
        found |= {"mean", "std"}
    count, num_means = saved.get("channels"), len(given["mean"]) if "mean" in given else 3
    if "channels" in found and not _is_rgb(count) and str(num_means) != count:
        found |= for_channels(num_means).keys()  # what was given was for other images
    return {name: value for name, value in given.items() if name not in found}


def _is_rgb(channels: str | None) -> bool:
    """Say whether channels are those of RGB, or a text that will be refused or found out."""
    return channels is None or channels not in _OTHERS
