"""Finding an image's vector among those of others, by embeddings."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def recall_at_1(a: Tensor, b: Tensor) -> float:
    """Return the share, in [0, 1], of rows of a [n, dim] whose nearest row of b [n, dim] by cosine
    is the one at their own place. By chance it is 1 / n."""
    nearest = (F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).T).argmax(1)
    return float((nearest == nearest.new_tensor(range(len(a)))).double().mean())
