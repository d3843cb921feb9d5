"""Further rows of z that are no views: of a vector for each image, through a projector of its own.

The vector is what a frozen teacher makes of the clean image, or what a file pairs with its name.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.paired_vectors import read_vectors
from effssl.data.sources import names_of
from effssl.data.stored import Data
from effssl.evaluation.encode import encode
from effssl.image_config import Augment, Images
from effssl.models import BackboneSpec, load_backbone, representation_dim
from effssl.models.timm_files import load_weights
from effssl.models.weight_files import check_channels
from effssl.ranges import is_named_file
from effssl.run import distributed
from effssl.run.device import Runtime
from effssl.run.files import atomic
from effssl.start_config import Branches
from effssl.views.stream import ViewStream

TEACHER = "teacher.npy"  # in a run's folder: what the teacher made of the images, float16
ON_DEVICE = 2**31  # bytes of vectors that are kept there; more stay in the file or in memory


@dataclass
class Branch:
    """A vector for each image of the training split."""

    name: str
    width: int
    vectors: Tensor | np.ndarray | None = None  # [images, width]; None until the teacher has seen
    teacher: tuple[nn.Module, BackboneSpec] | None = None

    def rows(self, positions: Tensor) -> Tensor:
        """Return the vectors at positions [n] of images: float32 [n, width], on their device."""
        if isinstance(self.vectors, Tensor):
            return self.vectors[positions].float()
        assert self.vectors is not None
        chosen = np.asarray(self.vectors[positions.cpu().numpy()], np.float32)
        return torch.from_numpy(chosen).to(positions.device)


def open_branches(settings: Branches, images: Images, data: Data) -> list[Branch]:
    """Load the teacher and the paired vectors, those that are asked for.

    Raises InputError for other files, and for images that have no vector.
    """
    branches = []
    if settings.teacher is not None:
        teacher = _load_teacher(settings.teacher)
        width = representation_dim(teacher[0])
        branches.append(Branch("teacher", width, teacher=teacher))
    if settings.paired is not None:
        assert data.source is not None
        names = names_of(data.source, data.train.positions, images.data_dir, "train")
        vectors = read_vectors(settings.paired, names)
        branches.append(Branch("paired", vectors.shape[1], vectors))
    return branches


def prepare_branches(
    branches: list[Branch], data: Data, stream: ViewStream, augment: Augment, folder: Path
) -> None:
    """Let the teacher encode the training images, unless `folder` has that; then drop it.

    What is small enough goes to the device. augment: of the run's views.
    """
    device = stream.runtime.device
    for branch in branches:
        if branch.teacher is not None:
            file, count = folder / TEACHER, len(data.train.labels)
            if distributed.is_first() and not _is_there(file, (count, branch.width)):
                _encode_all(branch.teacher, data, stream, augment, file)
            distributed.barrier()
            branch.vectors, branch.teacher = np.load(file, mmap_mode="r"), None
        if isinstance(branch.vectors, np.ndarray) and branch.vectors.nbytes <= ON_DEVICE:
            branch.vectors = torch.from_numpy(np.array(branch.vectors)).to(device)


def _load_teacher(given: str) -> tuple[nn.Module, BackboneSpec]:
    if not is_named_file(given):
        return load_backbone(given)
    name, _, file = given.partition("=")
    return load_weights(name, Path(file), flag="--teacher")


def _encode_all(
    teacher: tuple[nn.Module, BackboneSpec],
    data: Data,
    stream: ViewStream,
    augment: Augment,
    file: Path,
) -> None:
    """Write the representations of the images that are trained on; the others' are 0."""
    model, spec = teacher
    runtime: Runtime = stream.runtime
    model = model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_channels(spec, augment.channels, "--teacher")
    seen = stream.with_views(
        replace(augment, image_size=spec.image_size, mean=spec.mean, std=spec.std)
    )
    positions = np.unique(data.pretrain_positions)
    shape, start = (len(data.train.labels), representation_dim(model)), 0
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    # Written, not mapped: through a map a full disk is no error but the signal SIGBUS.
    with atomic(file) as temporary, temporary.open("wb") as rows:
        np.lib.format.write_array_header_1_0(rows, header)
        begin, row_bytes = rows.tell(), 2 * shape[1]
        rows.truncate(begin + row_bytes * shape[0])
        with closing(seen.clean(positions)) as batches:
            for views in batches:
                h = encode(model, [views], runtime).cpu().numpy().astype("<f2")
                for row in h:
                    rows.seek(begin + row_bytes * int(positions[start]))
                    rows.write(row.tobytes())
                    start += 1


def _is_there(file: Path, shape: tuple[int, int]) -> bool:
    try:
        return np.load(file, mmap_mode="r").shape == shape
    except (OSError, ValueError):
        return False
