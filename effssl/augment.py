"""K views of every image, made on the device in one vectorised pass; of images of varied size the crops come from
data/multiview.py, and the rest is made here.

Every image and view has its own parameters, a function of (seed, epoch, sample index, view) alone: they do not depend
on the device, the batch or the number of workers. Each operation is torchvision's, for a batch with a parameter per
view; colour jitter applies brightness, contrast, saturation, hue in that order (torchvision draws the order, which
moves results only where values are clamped, or through hue).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

_ATTEMPTS = 10  # at a random crop that fits, as in torchvision
_BLOCK_BYTES = 2**21  # of views made at once on a CPU: what fits its cache is several times faster
_GRAY = (0.2989, 0.587, 0.114)


class Draws(NamedTuple):
    """What happens to each view, all [views, batch]; a neutral value where an operation is left out."""

    top: Tensor  # of the crop, in pixels of the stored image
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool
    brightness: Tensor  # factor, 1 is neutral
    contrast: Tensor
    saturation: Tensor
    # These four cost most; None where the settings leave them out altogether.
    hue: Tensor | None  # in turns, 0 is neutral
    gray: Tensor | None  # bool
    blur_sigma: Tensor | None  # in pixels, 0 where there is no blur
    solarize: Tensor | None  # bool


def draw(
    indices: Tensor,
    *,
    stored: tuple[int, int],
    views: int,
    seed: int,
    epoch: int,
    crop_scale: tuple[float, float],
    crop_ratio: tuple[float, float],
    hflip_prob: float,
    jitter_prob: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    gray_prob: float,
    blur_prob: float,
    blur_sigma: tuple[float, float],
    solarize_prob: float,
) -> Draws:
    """Draw the parameters of `views` views of the samples `indices` (int64 [batch]); `stored` is (height, width) of
    the images in pixels. The crop is torchvision's RandomResizedCrop: ten attempts, then the central fallback."""
    u = iter(uniform(indices, views=views, slots=2 * _ATTEMPTS + 13, seed=seed, epoch=epoch).unbind(-1))
    tries = [(next(u), next(u)) for _ in range(_ATTEMPTS)]
    height, width, found = _crop_size(tries, stored, crop_scale, crop_ratio)
    room_above, room_left = stored[0] - height, stored[1] - width
    top = torch.where(found, ((room_above + 1) * next(u)).floor(), (room_above / 2).floor())
    left = torch.where(found, ((room_left + 1) * next(u)).floor(), (room_left / 2).floor())
    flip = next(u) < hflip_prob
    jitter = next(u) < jitter_prob

    def factor(strength: float) -> Tensor:
        low = max(0.0, 1 - strength)
        return torch.where(jitter, low + (1 + strength - low) * next(u), 1.0)

    brightness_, contrast_, saturation_ = factor(brightness), factor(contrast), factor(saturation)
    hue_ = torch.where(jitter, hue * (2 * next(u) - 1), 0.0)
    gray = next(u) < gray_prob
    blurred = next(u) < blur_prob
    sigma = torch.where(blurred, blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * next(u), 0.0)
    solarize_ = next(u) < solarize_prob
    return Draws(
        *(top, left, height, width, flip, brightness_, contrast_, saturation_),
        hue=hue_ if hue > 0 and jitter_prob > 0 else None,
        gray=gray if gray_prob > 0 else None,
        blur_sigma=sigma if blur_prob > 0 else None,
        solarize=solarize_ if solarize_prob > 0 else None,
    )


def make_views(images: Tensor, draws: Draws, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Apply drawn parameters.

    images: uint8 [batch, height, width, 3], or [batch, views, size, size, 3] where they are crops already
    -> float32 [views, batch, 3, size, size], normalised.
    """
    if images.ndim == 5:  # each crop is an image with one view
        crops = rearrange(images, "b k h w c -> (k b) c h w")
        of_each = Draws._make(None if p is None else p.flatten()[None] for p in draws)
        x = _in_blocks(lambda x, *d: _recoloured(x, Draws(*d), mean, std)[None], crops, of_each, size)
        return x.view(*draws.top.shape, *x.shape[2:])

    def views_of(images: Tensor, *parameters: Tensor | None) -> Tensor:
        d = Draws(*parameters)  # type: ignore[arg-type]
        crops = _resized_crop(images, d.top, d.left, d.height, d.width, d.flip, size)
        return _recoloured(crops.flatten(0, 1), d, mean, std).view_as(crops)

    return _in_blocks(views_of, images, draws, size)


def _in_blocks(work: Callable[..., Tensor], images: Tensor, parameters: Sequence[Tensor | None], size: int) -> Tensor:
    """work(images [batch, ...], *parameters [views, batch]) -> [views, batch, 3, size, size]; on a CPU in parts of the
    batch that fit its cache."""
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return work(images, *parameters)
    assert parameters[0] is not None
    views, batch = parameters[0].shape
    out = torch.empty(views, batch, 3, size, size)
    block = max(1, _BLOCK_BYTES // (out[0, 0].nbytes * views))
    for start in range(0, batch, block):
        some = slice(start, start + block)
        out[:, some] = work(images[some], *(None if p is None else p[:, some] for p in parameters))
    return out


def _recoloured(x: Tensor, draws: Draws, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """All that follows the crop: x [n, 3, size, size], uint8 and yet to be flipped or in [0, 1]; draws of n in all."""
    each = Draws._make(None if p is None else p.flatten() for p in draws)
    if x.dtype == torch.uint8:
        x = flipped(x, each.flip)
    x = adjust_brightness(x, each.brightness)
    x = adjust_contrast(x, each.contrast)
    x = adjust_saturation(x, each.saturation)
    if each.hue is not None:
        x = _where(each.hue != 0, adjust_hue, x, each.hue)
    if each.gray is not None:
        x = _where(each.gray, lambda v: to_gray(v).expand_as(v), x)
    if each.blur_sigma is not None:
        tenth = x.shape[-1] // 10
        kernel_size = tenth + (tenth + 1) % 2  # a tenth of the side, odd
        x = _where(each.blur_sigma > 0, lambda v, s: gaussian_blur(v, s, kernel_size), x, each.blur_sigma)
    if each.solarize is not None:
        x = _where(each.solarize, solarize, x)
    return normalize(x, mean, std)


def clean_view(images: Tensor, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The whole image at the size of a view: uint8 [batch, height, width, 3] -> float32 [batch, 3, size, size]."""
    batch, height, width, _ = images.shape
    if (height, width) == (size, size):
        return normalize(images.permute(0, 3, 1, 2).float() / 255, mean, std)
    zero = torch.zeros(1, batch, device=images.device)
    whole = resized_crop(images, zero, zero, zero + height, zero + width, zero.bool(), size)[0]
    return normalize(whole, mean, std)


def canvas_of(size: int) -> int:
    """Side of the squares that images of varied size are decoded to for clean views: somewhat larger than a view."""
    return round(1.5 * size)


def normalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per channel; x [..., 3, height, width]."""
    shift, scale = x.new_tensor(mean), x.new_tensor(std)
    return (x - shift[:, None, None]) / scale[:, None, None]


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor, size: int
) -> Tensor:
    """K crops of each image, resized to size x size with antialiased bilinear weights and flipped where `flip`.

    images: uint8 [batch, H, W, 3]; the rest [views, batch] -> float32 [views, batch, 3, size, size] in [0, 1].
    Resizing is separable and linear, so a crop is two small matrix products with weights that are a function of its
    corner and size; all views share the image.
    """
    work = functools.partial(_resized_crop, size=size)
    return _in_blocks(work, images, (top, left, height, width, flip), size)


def _resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor, size: int
) -> Tensor:
    rows = _resize_weights(top, height, torch.zeros_like(flip), size, images.shape[1])  # [views, batch, size, H]
    columns = _resize_weights(left, width, flip, size, images.shape[2])  # [views, batch, size, W]
    planes = rearrange(images, "b h w c -> b h (c w)").float() / 255
    x = rearrange(rows, "k b s h -> b (k s) h") @ planes
    x = rearrange(x, "b (k s) (c w) -> b k (s c) w", s=size, c=3) @ rearrange(columns, "k b t w -> b k w t")
    return rearrange(x, "b k (s c) t -> k b c s t", c=3).contiguous()


def flipped(crops: Tensor, flip: Tensor) -> Tensor:
    """uint8 [n, 3, size, size], mirrored where `flip` [n] -> float32 in [0, 1]."""
    return torch.where(flip[:, None, None, None], crops.flip(-1), crops).float().div_(255)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """x [n, 3, h, w] in [0, 1], factor [n]."""
    return (x * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean gray; x [n, 3, h, w] in [0, 1], factor [n]."""
    mean = to_gray(x).mean((-3, -2, -1), keepdim=True)
    return torch.lerp(mean, x, factor[:, None, None, None]).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image; x [n, 3, h, w] in [0, 1], factor [n]."""
    return torch.lerp(to_gray(x), x, factor[:, None, None, None]).clamp_(0, 1)


def adjust_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue in HSV; x [n, 3, h, w] in [0, 1], turns [n] in [-0.5, 0.5]."""
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    # Hue in sixths of a turn, from the largest channel.
    sixths = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sixths = sixths + 6 * turns[:, None, None]
    # HSV -> RGB: channel n is value - chroma max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6.
    offsets = x.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    k = torch.remainder(sixths[:, None] + offsets, 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def to_gray(x: Tensor) -> Tensor:
    """ITU-R 601 luma; x [..., 3, h, w] -> [..., 1, h, w]."""
    r, g, b = x.unbind(-3)
    return (_GRAY[0] * r + _GRAY[1] * g + _GRAY[2] * b).unsqueeze(-3)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of odd width `kernel_size`, reflected at the border; x [n, 3, h, w], sigma [n] in pixels."""
    radius = kernel_size // 2
    if radius == 0:
        return x
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernel = kernel / kernel.sum(1, keepdim=True)  # [n, kernel_size]
    rows, columns = (_blur_matrix(kernel, side) for side in x.shape[-2:])
    return rows[:, None] @ x @ columns[:, None].mT


def solarize(x: Tensor) -> Tensor:
    """Invert what is at least 0.5; x in [0, 1]."""
    return torch.where(x >= 0.5, 1 - x, x)


def uniform(indices: Tensor, *, views: int, slots: int, seed: int, epoch: int) -> Tensor:
    """Counter-based uniform numbers in [0, 1): [views, batch, slots] float32 for sample `indices` (int64 [batch]).

    A chain of splitmix64 finalisers over (seed, epoch, index, view, slot); the same on every device.
    """
    device = indices.device
    key = _mix(_mix(torch.tensor(seed, dtype=torch.int64)) + _times(epoch, _GOLDEN)).to(device)
    sample = _mix(key + _times(indices, _GOLDEN))  # [batch]
    view = _mix(sample + _times(torch.arange(1, views + 1, device=device)[:, None], _GOLDEN))
    slot = _mix(view[..., None] + _times(torch.arange(1, slots + 1, device=device), _GOLDEN))
    return (_shift_right(slot, 40)).float() * 2.0**-24  # the upper 24 bits


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _MIX_1, _MIX_2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _times(value: int | Tensor, constant: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.int64) * constant  # int64 wraps around, as the generator wants


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, where torch's is arithmetic


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _crop_size(
    tries: list[tuple[Tensor, Tensor]], stored: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width of each crop, and whether an attempt fitted; where none did, of the central fallback."""
    stored_height, stored_width = stored
    aspect = stored_width / stored_height
    if aspect < ratio[0]:
        fallback_height, fallback_width = round(stored_width / ratio[0]), stored_width
    elif aspect > ratio[1]:
        fallback_height, fallback_width = stored_height, round(stored_height * ratio[1])
    else:
        fallback_height, fallback_width = stored_height, stored_width
    height = torch.full_like(tries[0][0], fallback_height)
    width = torch.full_like(tries[0][0], fallback_width)
    found = torch.zeros_like(height, dtype=torch.bool)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for u_area, u_ratio in reversed(tries):  # so that the first that fits is the one that stays
        area = stored_height * stored_width * (scale[0] + (scale[1] - scale[0]) * u_area)
        wide = torch.exp(low + (high - low) * u_ratio)
        w, h = (area * wide).sqrt().round(), (area / wide).sqrt().round()
        fits = (w > 0) & (w <= stored_width) & (h > 0) & (h <= stored_height)
        height, width, found = torch.where(fits, h, height), torch.where(fits, w, width), found | fits
    return height, width, found


def _resize_weights(start: Tensor, length: Tensor, flip: Tensor, size: int, stored: int) -> Tensor:
    """Weights [..., size, stored] that resample `length` pixels from `start` to `size`: a triangle as wide as an
    output pixel or an input pixel, whichever is larger, cut at the crop's border and normalised, as in torchvision."""
    out = torch.arange(size, device=start.device, dtype=torch.float32)
    out = torch.where(flip[..., None], size - 1 - out, out)  # [..., size]
    scale = (length / size)[..., None]
    centre = (out + 0.5) * scale
    position = torch.arange(stored, device=start.device, dtype=torch.float32) - start[..., None]  # [..., stored]
    inside = (position >= 0) & (position < length[..., None])
    distance = (position[..., None, :] + 0.5 - centre[..., None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[..., None]).clamp(min=0) * inside[..., None, :]
    return weights / weights.sum(-1, keepdim=True)


def _blur_matrix(kernel: Tensor, side: int) -> Tensor:
    """[n, kernel_size] -> [n, side, side] that convolves a column of pixels, reflected at its ends."""
    radius = kernel.shape[1] // 2
    index = torch.arange(side, device=kernel.device)
    source = index[:, None] + torch.arange(-radius, radius + 1, device=kernel.device)  # [side, kernel_size]
    source = (side - 1) - ((side - 1) - source.abs()).abs()
    matrix = kernel.new_zeros(len(kernel), side, side)
    return matrix.scatter_add_(2, source.expand(len(kernel), -1, -1), kernel[:, None].expand(-1, side, -1))


def _where(mask: Tensor, operation, x: Tensor, *parameters: Tensor) -> Tensor:
    """operation(x, *parameters) for the views in `mask` [n]. On the CPU only they are computed; on a GPU all are, as
    counting them would wait for it."""
    if x.device.type == "cpu":
        chosen = mask.nonzero().squeeze(1)
        if len(chosen) == 0:
            return x
        return x.index_copy(0, chosen, operation(x[chosen], *(p[chosen] for p in parameters)))
    return torch.where(mask[:, None, None, None], operation(x, *parameters), x)
