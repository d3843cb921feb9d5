"""Operations on views, each for a batch with a parameter per view: what GPUs compute.

On a CPU cpu_views.py does the same in compiled loops, and is held to this.

Every operation is torchvision's. Colour jitter applies brightness, contrast, saturation and hue in
that order (torchvision draws the order, which moves results only where values are clamped, or
through hue).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from effssl.image_config import Augment
from effssl.ranges import ImageSize, height_width
from effssl.views.draws import ColourDraws, CropDraws

_GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma


def resized_crop(
    images: Tensor,
    crops: CropDraws,
    flips: Tensor,
    size: ImageSize,
    upside_down: Tensor | None = None,
) -> Tensor:
    """Cut K crops of each image, resize them with antialiasing, and mirror those in `flips`, and
    top and bottom of those in `upside_down` (None: of none).

    images: [batch, H, W, c], as `unit_range` takes them; crops, flips, upside_down: [views, batch]
    -> float32 [views, batch, c, h, w], of this size, in [0, 1].

    Bilinear resizing is separable and linear, so a crop is two small matrix products with weights
    that are a function of its corner and size; all views share the image.
    """
    _, stored_height, stored_width, channels = images.shape
    height, width = height_width(size)
    if upside_down is None:
        upside_down = torch.zeros_like(flips)
    rows = _resize_weights(
        crops.top, crops.height, upside_down, height, stored_height
    )  # [views, batch, h, H]
    columns = _resize_weights(crops.left, crops.width, flips, width, stored_width)  # [.., w, W]
    planes = unit_range(rearrange(images, "b h w c -> b h (c w)"))
    x = rearrange(rows, "k b s h -> b (k s) h") @ planes
    x = rearrange(x, "b (k s) (c w) -> b k (s c) w", s=height, c=channels)
    x = x @ rearrange(columns, "k b t w -> b k w t")
    return rearrange(x, "b k (s c) t -> k b c s t", c=channels).contiguous()


def flipped(crops: Tensor, flips: Tensor, upside_down: Tensor | None = None) -> Tensor:
    """Mirror crops [n, c, h, w] in `flips` [n], and top and bottom of those in `upside_down`
    -> float32 in [0, 1]."""
    x = torch.where(flips[:, None, None, None], crops.flip(-1), crops)
    if upside_down is not None:
        x = torch.where(upside_down[:, None, None, None], x.flip(-2), x)
    return unit_range(x)


def unit_range(pixels: Tensor) -> Tensor:
    """Return pixels, bytes or float32 in [0, 1], as float32 in [0, 1]."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def recoloured(x: Tensor, colours: ColourDraws, augment: Augment) -> Tensor:
    """Change the colours of views x [n, c, h, w] in [0, 1], and normalise them.

    Of images that are no RGB, brightness and contrast alone, blur and solarisation.
    """
    each = colours.map(torch.flatten)
    x = adjust_brightness(x, each.brightness)
    x = adjust_contrast(x, each.contrast)
    if x.shape[1] == 3:
        x = adjust_saturation(x, each.saturation)
    if each.hue is not None:
        x = _where(each.hue != 0, adjust_hue, x, each.hue)
    if each.gray is not None:
        x = _where(each.gray, lambda v: to_gray(v).expand_as(v), x)
    if each.blur_sigma is not None:
        blur = functools.partial(gaussian_blur, kernel_size=blur_kernel_size(x.shape[-2:]))
        x = _where(each.blur_sigma > 0, blur, x, each.blur_sigma)
    if each.solarize is not None:
        x = _where(each.solarize, solarize, x)
    return normalize(x, augment.mean, augment.std)


def blur_kernel_size(size: Sequence[int]) -> int:
    """Return the blur's kernel in pixels, an odd tenth of the shorter side of views of a size."""
    tenth = min(size) // 10
    return tenth + (tenth + 1) % 2


def normalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (x - mean) / std per channel; x [..., c, height, width]."""
    shift, scale = constant(mean, x), constant(std, x)
    return (x - shift[:, None, None]) / scale[:, None, None]


def unnormalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Undo `normalize`, into [0, 1]."""
    shift, scale = constant(mean, x), constant(std, x)
    return (x * scale[:, None, None] + shift[:, None, None]).clamp_(0, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply x [n, c, h, w] in [0, 1] by factor [n]."""
    return (x * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend x [n, c, h, w] in [0, 1] with its image's mean gray, by factor [n]; of images that are
    no RGB with the mean of all channels."""
    mean = (to_gray(x) if x.shape[1] == 3 else x).mean((-3, -2, -1), keepdim=True)
    return torch.lerp(mean, x, factor[:, None, None, None]).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend x [n, 3, h, w] in [0, 1] with the gray image, by factor [n]."""
    return torch.lerp(to_gray(x), x, factor[:, None, None, None]).clamp_(0, 1)


def adjust_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of x [n, 3, h, w] in [0, 1] in HSV, by turns [n] in [-0.5, 0.5]."""
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    # Hue in sixths of a turn, from the largest channel.
    not_red = torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    sixths = torch.where(value == r, (g - b) / safe, not_red)
    sixths = sixths + 6 * turns[:, None, None]
    # HSV -> RGB: channel n is value - chroma max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6.
    offsets = constant((5.0, 3.0, 1.0), x)[:, None, None]
    k = torch.remainder(sixths[:, None] + offsets, 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def to_gray(x: Tensor) -> Tensor:
    """Return the luma of x [..., 3, h, w] -> [..., 1, h, w]."""
    r, g, b = x.unbind(-3)
    return (_GRAY[0] * r + _GRAY[1] * g + _GRAY[2] * b).unsqueeze(-3)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur x [n, c, h, w] with Gaussians of sigma [n] pixels, cut to an odd `kernel_size`.

    The image is reflected at its border.
    """
    radius = kernel_size // 2
    if radius == 0:
        return x
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernel = kernel / kernel.sum(1, keepdim=True)  # [n, kernel_size]
    rows, columns = (_blur_matrix(kernel, side) for side in x.shape[-2:])
    return rows[:, None] @ x @ columns[:, None].mT


def solarize(x: Tensor) -> Tensor:
    """Invert what is at least 0.5 of x in [0, 1]."""
    return torch.where(x >= 0.5, 1 - x, x)


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return the values as a tensor beside `like`; kept, as copying to a GPU would wait for it."""
    if torch.compiler.is_compiling():
        return like.new_tensor(values)  # a constant of the compiled function
    return _kept(tuple(values), like.dtype, like.device)


def _resize_weights(start: Tensor, length: Tensor, flip: Tensor, size: int, stored: int) -> Tensor:
    """Return the weights [..., size, stored] that resample `length` pixels from `start` to `size`.

    A triangle as wide as an output pixel or an input pixel, whichever is larger, cut at the crop's
    border and normalised, as in torchvision.
    """
    out = torch.arange(size, device=start.device, dtype=torch.float32)
    out = torch.where(flip[..., None], size - 1 - out, out)  # [..., size]
    scale = (length / size)[..., None]
    centre = (out + 0.5) * scale
    position = (
        torch.arange(stored, device=start.device, dtype=torch.float32) - start[..., None]
    )  # [..., stored]
    inside = (position >= 0) & (position < length[..., None])
    distance = (position[..., None, :] + 0.5 - centre[..., None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[..., None]).clamp(min=0) * inside[..., None, :]
    return weights / weights.sum(-1, keepdim=True)


def _blur_matrix(kernel: Tensor, side: int) -> Tensor:
    """Turn kernels [n, kernel_size] into matrices [n, side, side] that convolve a column of pixels.

    The column is reflected at its ends.
    """
    radius = kernel.shape[1] // 2
    index = torch.arange(side, device=kernel.device)
    source = index[:, None] + torch.arange(
        -radius, radius + 1, device=kernel.device
    )  # [side, kernel_size]
    source = (side - 1) - ((side - 1) - source.abs()).abs()
    matrix = kernel.new_zeros(len(kernel), side, side)
    return matrix.scatter_add_(
        2, source.expand(len(kernel), -1, -1), kernel[:, None].expand(-1, side, -1)
    )


@functools.lru_cache(maxsize=64)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # wherever it is made first, it serves everywhere
        return torch.tensor(values, dtype=dtype, device=device)


def _where(
    mask: Tensor, operation: Callable[..., Tensor], x: Tensor, *parameters: Tensor
) -> Tensor:
    """Apply operation(x, *parameters) to the views in `mask` [n].

    On a CPU only they are computed; on a GPU all are, as counting them would wait for it.
    """
    if x.device.type == "cpu":
        chosen = mask.nonzero().squeeze(1)
        if len(chosen) == 0:
            return x
        return x.index_copy(0, chosen, operation(x[chosen], *(p[chosen] for p in parameters)))
    return torch.where(mask[:, None, None, None], operation(x, *parameters), x)
