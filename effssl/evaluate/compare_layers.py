"""How alike the backbones of runs are, layer by layer."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from effssl.config import Config
from effssl.data.stored import open_data
from effssl.evaluate.images import probed_augment, probed_images
from effssl.evaluation import protocols
from effssl.evaluation.cka import cka_matrix
from effssl.evaluation.encode import spread
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.layers import layer_features
from effssl.evaluation.pictures import save_cka
from effssl.image_config import Augment
from effssl.job_config import Evaluation
from effssl.models import build_encoder
from effssl.run.device import Runtime
from effssl.run.files import write_json
from effssl.run.pictures import or_a_line
from effssl.views.stream import CLEAN_BATCH, ViewStream


def compare_layers(runs: dict[str, FinishedRun], settings: Evaluation, runtime: Runtime) -> None:
    """Write CKA between the layers of the first run and those of each other, and print the files.

    A run alone is compared with its untrained backbone. All see the first run's images, each in the
    size and normalisation that it was trained with. Raises InputError if a file cannot be written.
    """
    (first_name, first), *others = runs.items()
    compared = {name: (run.backbone, run.cfg) for name, run in others}
    if not compared:
        cfg = first.cfg
        untrained = build_encoder(cfg.model, cfg.augment, cfg.run.seed)
        compared = {"untrained": (untrained.backbone, cfg)}
    images = probed_images(first.cfg.images, settings)
    data = open_data(images)
    split, positions = protocols.reported_images(data)
    positions = spread(positions, protocols.RANK_IMAGES)

    @functools.cache  # compiling one takes seconds
    def stream_of(augment: Augment) -> ViewStream:
        return ViewStream(
            data.stored(split),
            augment,
            seed=images.split_seed,
            batch_size=CLEAN_BATCH,
            workers=images.workers,
            runtime=runtime,
            progress=True,
        )

    def layers(backbone: nn.Module, cfg: Config) -> dict[str, Tensor]:
        views = stream_of(probed_augment(cfg.augment, settings)).clean(positions)
        return layer_features(backbone.to(runtime.device), views, runtime)

    rows = layers(first.backbone, first.cfg)
    for name, (backbone, cfg) in compared.items():
        columns = layers(backbone, cfg)
        matrix = cka_matrix(list(rows.values()), list(columns.values()))
        stem = f"cka-{first_name}-{name}".replace("/", "_")
        file, picture = ((settings.to or first.folder) / f"{stem}.{e}" for e in ("json", "png"))
        layer_names = {"rows": {first_name: list(rows)}, "columns": {name: list(columns)}}
        write_json(file, layer_names | {"cka": matrix.tolist(), "images": len(positions)})
        with or_a_line(picture):
            save_cka(picture, matrix, list(rows), list(columns), backbones=(first_name, name))
        print(*(each for each in (file, picture) if each.exists()), sep="\n")
