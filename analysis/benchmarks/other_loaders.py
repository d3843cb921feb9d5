"""K views of the images of a set through FFCV's own pipelines and through DataLoaders.

Each function takes a Case and a device and returns a pass, as effssl_views in loaders.py does.
Packages are imported where they are used, as not all of them are installed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from analysis.benchmarks.cases import COLOUR, Case, Pass, chosen_positions


def ffcv_views(case: Case, device: str) -> Pass:
    """Return passes through a pipeline per view, each of which decodes for itself."""
    # Here and not above: effssl.data is to import FFCV first.
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.pipeline_spec import PipelineSpec
    from ffcv.transforms import (
        NormalizeImage,
        RandomBrightness,
        RandomContrast,
        RandomHorizontalFlip,
        RandomSaturation,
        ToTensor,
        ToTorchImage,
    )

    def pipeline() -> PipelineSpec:
        c, mean, std = COLOUR, np.array(COLOUR.mean) * 255, np.array(COLOUR.std) * 255
        steps: list[Any] = [NormalizeImage(mean, std, np.dtype(np.float32))]
        steps += [ToTensor(), ToTorchImage()]
        if case.colour:
            strengths = {RandomBrightness: c.brightness, RandomContrast: c.contrast}
            strengths |= {RandomSaturation: c.saturation}
            colour = [change(x, p=c.jitter_prob) for change, x in strengths.items()]
            steps = [RandomHorizontalFlip(flip_prob=c.hflip_prob), *colour, *steps]
        square = (case.size, case.size)
        crop = RandomResizedCropRGBImageDecoder(square, COLOUR.crop_scale, COLOUR.crop_ratio)
        return PipelineSpec("image", decoder=crop, transforms=steps)

    views = {f"view{k}": pipeline() for k in range(case.views)}
    with each_compiled_once():
        loader = Loader(
            str(case.beton),
            batch_size=case.batch,
            num_workers=case.workers,
            order=OrderOption.RANDOM,
            indices=chosen_positions(case),
            drop_last=False,
            pipelines={**views, "image": None, "label": None},
        )
    return lambda epoch: (sum(len(view) for view in batch) for batch in loader)


_COMPILED: dict[Hashable, Any] = {}


@contextlib.contextmanager
def each_compiled_once() -> Iterator[None]:
    """Have FFCV compile functions that do the same once. A pipeline writes and compiles its own,
    minutes for K = 8, and all run the same machine code either way."""
    from ffcv.pipeline.compiler import Compiler

    compile_one = Compiler.compile

    def compile_once(code: Callable, signature: Any = None) -> Any:
        cells = [cell.cell_contents for cell in code.__closure__ or ()]
        # What cannot be told to be the same is compiled.
        key = code.__code__, Compiler.num_threads, repr(signature), *map(_content, cells)
        if key not in _COMPILED:
            _COMPILED[key] = compile_one(code, signature)
        return _COMPILED[key]

    with mock.patch.object(Compiler, "compile", compile_once):
        yield


def _content(x: Any) -> Hashable:
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.tobytes()
    return (type(x), x if isinstance(x, Hashable) else id(x))


class _Images(torch.utils.data.Dataset):
    def __init__(self, files: Path, transform: Callable[[Image.Image], list[torch.Tensor]]):
        self.stored = np.load(files) if files.suffix == ".npy" else sorted(files.iterdir())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        stored = self.stored[i]
        if isinstance(stored, np.ndarray):
            return self.transform(Image.fromarray(stored))
        return self.transform(Image.open(stored).convert("RGB"))


def _dataloader(case: Case, view: Callable[[Image.Image], torch.Tensor]) -> Pass:
    loader = torch.utils.data.DataLoader(
        _Images(case.files, functools.partial(_each, view, case.views)),
        batch_size=case.batch,
        shuffle=True,
        num_workers=case.workers,
        persistent_workers=True,
        multiprocessing_context="fork",  # spawned workers would import solo-learn as a whole
    )
    return lambda epoch: (sum(len(x) for x in views) for views in loader)


def _each(
    view: Callable[[Image.Image], torch.Tensor], views: int, image: Image.Image
) -> list[torch.Tensor]:
    return [view(image) for _ in range(views)]


def torchvision_views(case: Case, device: str) -> Pass:
    """Return passes through a DataLoader with transforms v2."""
    from torchvision.transforms import v2

    c = COLOUR
    steps: list[Any] = [v2.RandomResizedCrop(case.size, scale=c.crop_scale, ratio=c.crop_ratio)]
    if case.colour:
        jitter = v2.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue)
        steps += [v2.RandomHorizontalFlip(c.hflip_prob), v2.RandomApply([jitter], c.jitter_prob)]
        steps += [v2.RandomGrayscale(c.gray_prob)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(c.mean, c.std)]
    return _dataloader(case, v2.Compose(steps))


def lightly_views(case: Case, device: str) -> Pass:
    """Return passes through a DataLoader with lightly's views."""
    from lightly.transforms.vicreg_transform import VICRegViewTransform

    c = COLOUR
    jitter = {"cj_prob": c.jitter_prob, "cj_strength": 1.0, "cj_bright": c.brightness}
    jitter |= {"cj_contrast": c.contrast, "cj_sat": c.saturation, "cj_hue": c.hue}
    view = VICRegViewTransform(
        input_size=case.size,
        min_scale=c.crop_scale[0],
        hf_prob=c.hflip_prob,
        random_gray_scale=c.gray_prob,
        solarize_prob=0.0,
        gaussian_blur=0.0,
        normalize={"mean": list(c.mean), "std": list(c.std)},
        **jitter,
    )
    return _dataloader(case, view)


def solo_views(case: Case, device: str) -> Pass:
    """Return passes through a DataLoader with solo-learn's views, those of version 1.0.2."""
    from analysis.peers.solo import part

    c = COLOUR
    low, high = c.crop_scale
    view = part("utils.pretrain_dataloader").CifarTransform(
        *(c.brightness, c.contrast, c.saturation, c.hue),
        color_jitter_prob=c.jitter_prob,
        gray_scale_prob=c.gray_prob,
        horizontal_flip_prob=c.hflip_prob,
        gaussian_prob=0.0,
        solarization_prob=0.0,
        min_scale=low,
        max_scale=high,
        crop_size=case.size,
    )
    return _dataloader(case, view)
