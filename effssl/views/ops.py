"""K views of every image, made on the device in one vectorised pass; of images of varied size the crops come from
data/multiview.py, and the rest is made here.

Every image and view has its own parameters, drawn in sampling.py. Each operation is torchvision's, for a batch with a
parameter per view; colour jitter applies brightness, contrast, saturation, hue in that order (torchvision draws the
order, which moves results only where values are clamped, or through hue).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from effssl.views.draws import Draws

_BLOCK_BYTES = 2**21  # of views made at once on a CPU: what fits its cache is several times faster
_GRAY = (0.2989, 0.587, 0.114)


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
    shift, scale = _constant(mean, x), _constant(std, x)
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
    offsets = _constant((5.0, 3.0, 1.0), x)[:, None, None]
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


def _constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values as a tensor beside `like`; kept, as copying them to a GPU at every step would wait for it."""
    if torch.compiler.is_compiling():
        return like.new_tensor(values)  # a constant of the compiled function
    return _kept(tuple(values), like.dtype, like.device)


@functools.lru_cache(maxsize=64)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # wherever it is made first, it serves everywhere
        return torch.tensor(values, dtype=dtype, device=device)


def _where(mask: Tensor, operation, x: Tensor, *parameters: Tensor) -> Tensor:
    """operation(x, *parameters) for the views in `mask` [n]. On the CPU only they are computed; on a GPU all are, as
    counting them would wait for it."""
    if x.device.type == "cpu":
        chosen = mask.nonzero().squeeze(1)
        if len(chosen) == 0:
            return x
        return x.index_copy(0, chosen, operation(x[chosen], *(p[chosen] for p in parameters)))
    return torch.where(mask[:, None, None, None], operation(x, *parameters), x)
