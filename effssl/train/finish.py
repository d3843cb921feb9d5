"""What a finished training leaves: the backbone, the final table, result.json."""

from __future__ import annotations

from torch import nn

from effssl.evaluation.encode import Features, backbone_features, pixel_features
from effssl.evaluation.final_table import final_rows, format_table
from effssl.models import AVERAGED, START, BackboneSpec, build_encoder, load_backbone, save_backbone
from effssl.run import distributed, folder
from effssl.run.log import RunLog
from effssl.train.job import Job


def finish(job: Job, seconds: float, log: RunLog) -> None:
    """Write the backbone, read the test split for the final table, and say how it went.

    seconds: of training.
    """
    cfg, out = job.cfg, job.out
    save_backbone(job.encoder.backbone, out / "backbone.safetensors", backbone_spec(job))
    if job.averaged is not None:
        save_backbone(job.averaged.backbone, out / AVERAGED, backbone_spec(job))
    rows: dict[str, Features] = {}
    if cfg.probe.final_images:
        backbones = {"trained": job.encoder.backbone, **_others(job)}
        log.say(f"final probes: {' backbone, '.join(backbones)} backbone, pixels")
        rows = {
            name: backbone_features(backbone.to(job.runtime.device), job.streams)
            for name, backbone in backbones.items()
        }
        rows["pixels"] = pixel_features(job.streams)
    final = final_rows(
        rows,
        job.data,
        max_images=cfg.probe.final_images,
        few_labels=cfg.probe.probe_labels,
        seed=cfg.images.split_seed,
    )
    folder.write_result(
        out,
        final,
        steps=job.step,
        seconds=seconds,
        encoded_views=job.encoded_views,
        images=job.data.identity,
        device=job.runtime.device,
    )
    log.close()
    print(f"\n{format_table(final)}\n", *folder.highlights(out), sep="\n")


def save_start(job: Job) -> None:
    """Write start.safetensors, the backbone that training begins with, if it is one of --init."""
    if job.cfg.start.init and distributed.is_first():
        save_backbone(job.encoder.backbone, job.out / START, backbone_spec(job))


def _others(job: Job) -> dict[str, nn.Module]:
    """Return the backbones that the trained one is compared with."""
    cfg, start = job.cfg, job.out / START
    untrained = build_encoder(cfg.model, cfg.augment, cfg.run.seed)
    others = {} if job.averaged is None else {"averaged": job.averaged.backbone}
    if start.is_file():
        others["start"] = load_backbone(start)[0]
    return others | {"untrained": untrained.backbone}


def backbone_spec(job: Job) -> BackboneSpec:
    """Describe the backbone for those who load its weights."""
    model, augment, images = job.cfg.model, job.cfg.augment, job.cfg.images
    assert images.gray_range != "auto"  # it is in numbers since training began
    return BackboneSpec(
        backbone=model.backbone,
        image_size=augment.image_size,
        stem=model.stem,
        backbone_kwargs=model.backbone_kwargs,
        mean=augment.mean,
        std=augment.std,
        kept_channels=images.channels,
        gray_range=images.gray_range,
    )
