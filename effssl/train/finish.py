"""What a finished training leaves: the backbone, the final table, result.json."""

from __future__ import annotations

from effssl.evaluation.encode import Features, backbone_features, pixel_features
from effssl.evaluation.final_table import final_rows, format_table
from effssl.models import BackboneSpec, build_encoder, save_backbone
from effssl.run import folder
from effssl.run.log import RunLog
from effssl.train.job import Job


def finish(job: Job, seconds: float, log: RunLog) -> None:
    """Write the backbone, read the test split for the final table, and say how it went.

    seconds: of training.
    """
    cfg, out = job.cfg, job.out
    save_backbone(job.encoder.backbone, out / "backbone.safetensors", backbone_spec(job))
    rows: dict[str, Features] = {}
    if cfg.probe.final_images:
        log.say("final probes: trained backbone, untrained backbone, pixels")
        untrained = build_encoder(cfg.model, cfg.augment.image_size, cfg.run.seed).backbone
        rows = {
            "trained": backbone_features(job.encoder.backbone, job.streams),
            "untrained": backbone_features(untrained.to(job.runtime.device), job.streams),
            "pixels": pixel_features(job.streams),
        }
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
        device=job.runtime.device,
    )
    log.close()
    print(f"\n{format_table(final)}\n", *folder.highlights(out), sep="\n")


def backbone_spec(job: Job) -> BackboneSpec:
    """Describe the backbone for those who load its weights."""
    model, augment = job.cfg.model, job.cfg.augment
    return BackboneSpec(
        backbone=model.backbone,
        image_size=augment.image_size,
        stem=model.stem,
        backbone_kwargs=model.backbone_kwargs,
        mean=augment.mean,
        std=augment.std,
    )
