"""Whether runs are of the images that are asked for, where one name stands for all sets of a user's
own: `folder`, `list`, `hf`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from effssl import InputError
from effssl.config import Config, resolved
from effssl.data.stored import OWN_SETS, find_split
from effssl.data.windows import with_channels
from effssl.image_config import Images

Identify = Callable[[Images], str | None]


def identity(images: Images) -> str | None:
    """Return what result.json of a run on these images knows them by; None if they are not
    there."""
    try:
        source = find_split(replace(with_channels(images), gray_range=None), "train")
    except InputError:
        return None
    return None if source is None else source.identity


def are_others(noted: str | None, cfg: Config, identify: Identify) -> bool | None:
    """Say whether a result's images are others than those that are asked for; None where nothing
    tells."""
    if cfg.images.data not in OWN_SETS:
        return False
    # All parts and splits of a set are one set, which is searched once.
    here = identify(replace(cfg.images, fraction=1.0, split_seed=0)) if noted else None
    return None if here is None else noted != here


def has_others(run: Path, was: Config, now: Config, identify: Identify) -> bool:
    """Say whether a run's folder is of other images than those that are asked for: of others by its
    result, or else of another place, where --resume would look for them too."""
    file = run / "result.json"
    noted = json.loads(file.read_text()).get("images") if file.is_file() else None
    others = are_others(noted, now, identify)
    if others is None:
        return any(resolved(was)[x] != resolved(now)[x] for x in ("data_dir", "more_dirs"))
    return others
