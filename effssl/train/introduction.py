"""What a run says of itself before it begins."""

from __future__ import annotations

from effssl.ranges import size_text
from effssl.train.job import Job


def introduction(job: Job) -> str:
    """Return the line that says what is trained, by what, on what and where."""
    cfg, data = job.cfg, job.data
    num_parameters = sum(p.numel() for p in job.encoder.parameters()) / 1e6
    num_test = len(data.test.labels) if data.test else 0
    rate = f"; --lr auto is {cfg.lr:g}" if cfg.optim.lr == "auto" else ""
    return (
        f"{job.out}: {cfg.loss.method}, {views_text(job)}, proj-dim {cfg.model.proj_dim}, "
        f"{cfg.model.backbone} ({num_parameters:.1f} M parameters) on {job.runtime.device}; "
        f"{cfg.images.data}: {len(data.pretrain_positions)} training, {len(data.val_positions)} "
        f"validation, {num_test} test images; steps {job.step} to {job.total_steps}{rate}"
    )


def views_text(job: Job) -> str:
    """Say how many views there are, and of what sizes if these are several."""
    views, (first, last) = f"{job.cfg.augment.views} views", (job.sizes[0], job.sizes[-1])
    if first != last:
        views += f" (of {size_text(first)} px at first, {size_text(last)} px at last)"
    if small := job.small:
        views += f" and {small.views} of {size_text(small.image_size)} px"
    return views
