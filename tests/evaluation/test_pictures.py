from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from effssl.evaluation import pictures


def test_the_cka_picture_has_a_cell_a_pair_with_the_first_layer_at_the_bottom(tmp_path):
    matrix = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    layers = ["first", "second"], ["x", "y", "z"]
    pictures.save_cka(tmp_path / "cka.png", matrix, *layers, backbones=("one", "other"))
    pixels = np.asarray(Image.open(tmp_path / "cka.png").convert("RGB")).astype(int)
    left = pixels[:, : pixels.shape[1] * 3 // 4]  # the colour bar lies to the right
    black = np.argwhere((left == [0, 0, 3]).all(2))  # magma's 0
    bright = np.argwhere((left == [251, 252, 191]).all(2))  # and its 1
    assert len(black) > 3 * len(bright) > 1000
    assert (
        bright.mean(0)[0] > black.mean(0)[0] and bright.mean(0)[1] < black.mean(0)[1]
    )  # below, and to the left
    assert [p.name for p in tmp_path.iterdir()] == ["cka.png"]
