"""K views of the images of a set through effssl's loader and through others': the contenders of throughput.py.

Each function of CONTENDERS takes a Case and a device and returns a pass: epoch -> an iterator over batches, which gives
the number of views of each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from effssl.config import Augment
from effssl.data.ffcv_loader import Loader, batches, open_loader
from effssl.views import draws as sampling
from effssl.views import ops as augment
from effssl.views.decode_crops import MultiViewDecoder

OURS = "effssl"
COLOUR = Augment(saturation=0.4, hue=0.0, blur_prob=0.0, solarize_prob=0.0)  # the CIFAR-10 recipe of arXiv 2312.10725
PLAIN = Augment(hflip_prob=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, solarize_prob=0.0)


class Case(NamedTuple):
    """What to deliver: K views of every image."""

    size: int  # of a view, in pixels
    views: int  # 0: the images as they are, no views
    colour: bool  # all augmentations, else crops alone
    total: int  # images of the set
    images: int  # of a pass
    batch: int
    workers: int
    beton: Path
    side: int | None  # of images stored raw, in pixels
    files: Path  # the same images for DataLoaders: .npy, or a folder of JPEGs


def some_positions(case: Case) -> np.ndarray:
    """The images of a pass, by position in the .beton: a seeded choice."""
    return np.random.default_rng(0).permutation(case.total)[: case.images]


def effssl_views(case: Case, device: str) -> Callable[[int], Iterator[int]]:
    loader, chosen = open_ours(case)
    where = torch.device(device)

    def one_pass(epoch: int) -> Iterator[int]:
        order = np.random.default_rng(epoch).permutation(chosen)
        for images, positions in batches(loader, order, where, epoch=epoch):
            if case.views == 0 or (case.side is None and not case.colour):  # crops are what the loader delivers
                yield len(images) * max(1, case.views)
            else:
                yield len(make_ours(case, images, positions, epoch).flatten(0, 1))

    return one_pass


def open_ours(case: Case) -> tuple[Loader, np.ndarray]:
    """The loader that training uses, and the positions of the images."""
    return _open(case._replace(colour=False)), some_positions(case)


@functools.lru_cache(maxsize=1)  # for both kinds of augmentation: compiling it takes seconds
def _open(case: Case) -> Loader:
    crops = None
    if case.side is None and case.views:
        how = {"crop_scale": COLOUR.crop_scale, "crop_ratio": COLOUR.crop_ratio}
        crops = MultiViewDecoder(views=case.views, size=case.size, seed=0, **how)
    return open_loader(case.beton, case.batch, case.workers, None if case.side else case.size, crops)


def make_ours(case: Case, images: torch.Tensor, positions: torch.Tensor, epoch: int) -> torch.Tensor:
    a, side = COLOUR if case.colour else PLAIN, case.side or case.size
    strengths = {k: v for k, v in vars(a).items() if k not in ("views", "mean", "std")}
    draws = sampling.draw(positions, stored=(side, side), views=case.views, seed=0, epoch=epoch, **strengths)
    if not case.colour:
        return augment.resized_crop(images, draws.top, draws.left, draws.height, draws.width, draws.flip, case.size)
    return augment.make_views(images, draws, size=case.size, mean=a.mean, std=a.std)


def ffcv_views(case: Case, device: str) -> Callable[[int], Iterator[int]]:
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
        steps: list[Any] = [ToTensor(), ToTorchImage()]
        if case.colour:
            c, mean, std = COLOUR, np.array(COLOUR.mean) * 255, np.array(COLOUR.std) * 255
            strengths = {RandomBrightness: c.brightness, RandomContrast: c.contrast, RandomSaturation: c.saturation}
            colour = [change(strength, p=c.jitter_prob) for change, strength in strengths.items()]
            flip = RandomHorizontalFlip(flip_prob=c.hflip_prob)
            steps = [flip, *colour, NormalizeImage(mean, std, np.dtype(np.float32)), *steps]
        decoder = RandomResizedCropRGBImageDecoder((case.size, case.size), COLOUR.crop_scale, COLOUR.crop_ratio)
        return PipelineSpec("image", decoder=decoder, transforms=steps)

    loader = Loader(
        str(case.beton),
        batch_size=case.batch,
        num_workers=case.workers,
        order=OrderOption.RANDOM,
        indices=some_positions(case),
        drop_last=False,
        pipelines={f"view{k}": pipeline() for k in range(case.views)} | {"image": None, "label": None},
    )
    return lambda epoch: (sum(len(view) for view in views) for views in loader)


class _Images(torch.utils.data.Dataset):
    def __init__(self, files: Path, transform: Callable[[Image.Image], list[torch.Tensor]]):
        self.stored = np.load(files) if files.suffix == ".npy" else sorted(files.iterdir())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        image = self.stored[i]
        return self.transform(
            Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image).convert("RGB")
        )


def _dataloader(case: Case, view: Callable[[Image.Image], torch.Tensor]) -> Callable[[int], Iterator[int]]:
    loader = torch.utils.data.DataLoader(
        _Images(case.files, functools.partial(_each, view, case.views)),
        batch_size=case.batch, shuffle=True, num_workers=case.workers, persistent_workers=True,
    )  # fmt: skip
    return lambda epoch: (sum(len(x) for x in views) for views in loader)


def _each(view: Callable[[Image.Image], torch.Tensor], views: int, image: Image.Image) -> list[torch.Tensor]:
    return [view(image) for _ in range(views)]


def torchvision_views(case: Case, device: str) -> Callable[[int], Iterator[int]]:
    from torchvision.transforms import v2

    c = COLOUR
    steps: list[Any] = [v2.RandomResizedCrop(case.size, scale=c.crop_scale, ratio=c.crop_ratio)]
    if case.colour:
        jitter = v2.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue)
        steps += [v2.RandomHorizontalFlip(c.hflip_prob), v2.RandomApply([jitter], c.jitter_prob)]
        steps += [v2.RandomGrayscale(c.gray_prob), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        steps += [v2.Normalize(c.mean, c.std)]
    else:
        steps += [v2.ToImage()]
    return _dataloader(case, v2.Compose(steps))


def lightly_views(case: Case, device: str) -> Callable[[int], Iterator[int]]:
    from lightly.transforms.vicreg_transform import VICRegViewTransform

    c = COLOUR
    view = VICRegViewTransform(
        input_size=case.size, min_scale=c.crop_scale[0], hf_prob=c.hflip_prob, random_gray_scale=c.gray_prob,
        cj_prob=c.jitter_prob, cj_strength=1.0, cj_bright=c.brightness, cj_contrast=c.contrast, cj_sat=c.saturation,
        cj_hue=c.hue, solarize_prob=0.0, gaussian_blur=0.0, normalize={"mean": list(c.mean), "std": list(c.std)},
    )  # fmt: skip
    return _dataloader(case, view)


def solo_views(case: Case, device: str) -> Callable[[int], Iterator[int]]:
    from omegaconf import OmegaConf
    from solo.data.pretrain_dataloader import build_transform_pipeline

    c = COLOUR
    jitter = {"prob": c.jitter_prob, "hue": c.hue}
    jitter |= {"brightness": c.brightness, "contrast": c.contrast, "saturation": c.saturation}
    cfg = {
        "rrc": {"enabled": True, "crop_min_scale": c.crop_scale[0], "crop_max_scale": c.crop_scale[1]},
        "crop_size": case.size, "color_jitter": jitter, "grayscale": {"prob": c.gray_prob},
        "gaussian_blur": {"prob": 0}, "solarization": {"prob": 0}, "equalization": {"prob": 0},
        "horizontal_flip": {"prob": c.hflip_prob}, "mean": list(c.mean), "std": list(c.std),
    }  # fmt: skip
    return _dataloader(case, build_transform_pipeline("custom", OmegaConf.create(cfg)))


CONTENDERS: dict[str, Callable[[Case, str], Callable[[int], Iterator[int]]]] = {
    OURS: effssl_views,
    "FFCV, a pipeline per view": ffcv_views,
    "torchvision": torchvision_views,
    "lightly": lightly_views,
    "solo-learn": solo_views,
}
COLOUR_ONLY = ("lightly", "solo-learn")  # their own pipelines, which end in normalised tensors
