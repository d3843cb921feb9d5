"""scikit-learn's digits, which need no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from effssl.data.fingerprints import digest

DIGITS_SIDE = 16


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Make a split of scikit-learn's 1,797 digits, enlarged from 8 pixels to DIGITS_SIDE.

    split: "train" or "test", four fifths and the rest, of each digit alike.
    Returns (images uint8 [n, side, side, 3], labels int64 [n], classes, what they are known by).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    everything = np.arange(len(digits.target))
    train, test = train_test_split(
        everything, test_size=0.2, stratify=digits.target, random_state=0
    )
    chosen = np.sort(train if split == "train" else test)
    gray = (digits.images[chosen] * (255 / 16)).astype(np.uint8)
    size = (DIGITS_SIDE, DIGITS_SIDE)
    enlarged = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in gray]
    images = np.stack([np.asarray(image.convert("RGB")) for image in enlarged])
    labels = digits.target[chosen].astype(np.int64)
    content = digest(images.tobytes() + labels.tobytes())
    return images, labels, [str(i) for i in range(10)], content
