"""The command `export`: all files are made and checked aside, then moved into the folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from effssl import InputError
from effssl.export.onnx_file import ONNX, check_onnx_is_installed, write_onnx
from effssl.export.projector_file import PROJECTOR, load_projector
from effssl.export.readme import readme
from effssl.export.timm_folder import (
    CONFIG,
    WEIGHTS,
    WEIGHTS_AFTER_STEM,
    save_weights,
    write_timm_folder,
)
from effssl.job_config import Export
from effssl.models import BackboneSpec, load_backbone, representation_dim
from effssl.models.weight_files import read_extra
from effssl.ranges import size_text
from effssl.run import signals
from effssl.run.files import check_writable, nearest_existing

README = "README.md"


def export(settings: Export) -> str:
    """Write a run's backbone as a folder that plain timm loads; returns what is there, in a line.

    The folder holds config.json (timm's format), README.md, the weights, and what else is asked
    for. All is checked first: plain timm, built from the files, gives the outputs of the run's
    backbone to 1e-6.

    Raises:
        InputError: for a run that has no backbone, a backbone that timm does not rebuild, a folder
            that cannot be written or holds another export; then nothing is written.
    """
    backbone, spec = load_backbone(settings.run)
    to = settings.to
    check_writable(to, f"--to {to}")
    if settings.onnx:
        check_onnx_is_installed()
    try:
        # Beside their place, as a rename does not cross file systems.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=nearest_existing(to)) as aside:
            _write_files(Path(aside), backbone, spec, settings)
            _publish(Path(aside), to)
    except OSError as error:
        raise InputError(f"--to {to} cannot be written: {error.strerror or error}") from None
    extras = "".join(f", {name}" for name in (PROJECTOR, ONNX) if (to / name).is_file())
    takes = f"images of {size_text(spec.image_size)} px -> {representation_dim(backbone)} numbers"
    return f"{to}: {spec.backbone}, {takes}{extras}; how to load it: {to / README}"


def _write_files(new: Path, backbone: nn.Module, spec: BackboneSpec, settings: Export) -> None:
    """Write all files of the export, each checked, into an empty folder."""
    # Files beside a run's own, such as supervised.safetensors, say more.
    extra = {} if settings.run.is_dir() else read_extra(settings.run)
    write_timm_folder(new, backbone, spec, extra)
    projector = None
    # The README tells of a projector that an earlier export left, so it is written again.
    if settings.projector or (settings.to / PROJECTOR).is_file():
        projector = load_projector(settings.run, backbone)
        save_weights(projector, new / PROJECTOR)
    if settings.onnx:
        write_onnx(backbone, spec, new / ONNX)
    (new / README).write_text(readme(backbone, spec, projector))


def _publish(new: Path, to: Path) -> None:
    """Move the files into place. Raises InputError if files of another export are there."""
    files = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    is_same = {file: _holds_the_same(to / file, new / file) for file in files}
    weights = {Path(CONFIG), Path(WEIGHTS), Path(WEIGHTS_AFTER_STEM)}
    same_model = all(is_same[file] for file in files if file in weights)
    for file in files:
        # An ONNX file of the same weights may be another each time, and the README goes with what
        # was asked for.
        replaceable = file.name in (ONNX, README) and same_model
        if (to / file).exists() and not is_same[file] and not replaceable:
            raise InputError(f"--to {to} holds another {file}; name another folder")
    to.mkdir(parents=True, exist_ok=True)
    for file in files:
        (to / file).parent.mkdir(exist_ok=True)
        (new / file).replace(to / file)


def _holds_the_same(old: Path, new: Path) -> bool:
    return old.is_file() and old.read_bytes() == new.read_bytes()


def main(settings: Export) -> int:
    """Export as the command line does; returns the exit code."""
    return signals.exit_code(lambda: print(export(settings)))
