"""Pretrain a timm backbone with a K-view loss: VICReg, Barlow Twins and baselines beside them."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effssl import InputError, cli, optim
from effssl.config import Config
from effssl.data import Data
from effssl.data.ffcv_loader import Loader, batches, open_loader
from effssl.data.splits import epoch_order, own_part
from effssl.evaluation.encode import Clean, Features, backbone_features, clean_views, pixel_features, spread
from effssl.evaluation.final_table import final_rows, format_table, validation_probe
from effssl.evaluation.finished_run import build_encoder, open_images, strengths
from effssl.losses import objective
from effssl.models import backbones as models
from effssl.run import checkpoint, distributed, pictures
from effssl.run import device as process
from effssl.run import folder as run_folder
from effssl.run.log import Clock, RunLog, read_metrics
from effssl.views import draws as sampling
from effssl.views import ops as augment
from effssl.views.decode_crops import MultiViewDecoder


def train(cfg: Config) -> int:
    """Run `cfg` to its end, or until it is told to stop; returns the exit code.

    In a process group each process trains on its part of every batch, and the first one does all the rest.
    Leaves in the run folder: config.yaml, metrics.jsonl, tensorboard/, checkpoint.pt, backbone.safetensors,
    result.json, views.png, curves.png. Raises InputError before anything is written there, FloatingPointError on a
    non-finite loss, RuntimeError when loading fails.
    """
    label = f"{cfg.images.data}_{cfg.loss.method}_k{cfg.augment.views}_d{cfg.model.proj_dim}"
    out = distributed.from_first(cfg.run.resume or run_folder.choose(cfg.run.out, label))
    rank, world_size = distributed.rank(), distributed.world_size()
    device, autocast, compiled = process.where_it_runs(cfg.run.device, cfg.run.precision, cfg.run.compile)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # the fastest convolutions: all steps are of one shape
    batch, views = cfg.optim.batch_size, cfg.augment.views
    encoder = build_encoder(cfg).to(device)
    data, clean = open_images(cfg.images, cfg.augment, device, torch.bfloat16 if autocast else torch.float32)
    if batch % world_size:
        raise InputError(f"--batch-size {batch} does not divide among {world_size} processes")
    if batch > len(data.train_positions):
        raise InputError(f"--batch-size {batch} is larger than the set: {len(data.train_positions)} training images")
    loader = _open_loader(cfg, data)
    optimizer = optim.build_optimizer(
        encoder, cfg.optim.optimizer, lr=cfg.optim.lr, weight_decay=cfg.optim.weight_decay
    )
    # Not both: torch.compile breaks its graph at every BatchNorm that is shared by processes.
    forward = _in_parallel(encoder, device) if world_size > 1 else torch.compile(encoder) if compiled else encoder
    make_views = functools.partial(
        torch.compile(augment.make_views) if compiled else augment.make_views,
        size=clean.size, mean=clean.mean, std=clean.std,
    )  # fmt: skip
    side = data.train.side or clean.size  # of the images or crops that reach the device
    draw = functools.partial(
        sampling.draw, stored=(side, side), views=views, seed=cfg.run.seed, **strengths(cfg.augment)
    )
    loss_of = objective.build(cfg, encoder)
    features = backbone_features(encoder.backbone, clean)
    steps_per_epoch = len(data.train_positions) // batch
    total_steps = cfg.optim.epochs * steps_per_epoch
    schedule = functools.partial(
        optim.learning_rate, peak=cfg.optim.lr, final=cfg.optim.final_lr,
        warmup_steps=round(cfg.optim.warmup_epochs * steps_per_epoch), total_steps=total_steps,
    )  # fmt: skip

    which_images = f"{len(data.train.labels)} images {data.train.identity}"
    step, seconds = 0, 0.0
    if cfg.run.resume and (out / "checkpoint.pt").exists():  # else it was stopped before it began
        state = checkpoint.load(out / "checkpoint.pt")
        if state["images"] != which_images:
            raise InputError(f"--resume {out}: its images were others ({state['images']}; here {which_images})")
        checkpoint.restore(state, encoder, optimizer, device)
        step, seconds = state["step"], state["seconds"]
    if rank:  # not the dropout of the first
        torch.manual_seed(cfg.run.seed + rank + world_size * (step + 1))
    out_of_time = cfg.optim.max_seconds is not None and seconds >= cfg.optim.max_seconds
    if (out / "result.json").is_file() and (step == total_steps or out_of_time):
        if rank == 0:
            print(f"{out} is finished\n{format_table(json.loads((out / 'result.json').read_text())['final'])}")
        return 0
    log = None  # in the first process there is one
    if rank == 0:
        run_lock = run_folder.claim(out)
        cli.save(cfg, out / "config.yaml")
        log = RunLog(out, start_step=step, total_steps=total_steps)
        log.say(_introduction(cfg, data, encoder, device, out, step, total_steps))
    clock = Clock(seconds, functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None)
    stops = process.listen()

    def save() -> None:
        if rank:
            return
        if not all(bool(p.isfinite().all()) for p in encoder.parameters()):
            raise FloatingPointError(
                f"weights are not finite after step {step}; last good checkpoint: {out / 'checkpoint.pt'}"
            )
        state = checkpoint.capture(encoder, optimizer, device)
        checkpoint.save(out / "checkpoint.pt", state | {"step": step, "seconds": clock.seconds, "images": which_images})

    def where() -> dict[str, Any]:
        encoded = step * batch * views
        return {"step": step, "epoch": step / steps_per_epoch, "seconds": clock.seconds, "encoded_views": encoded}

    def probe_is_due() -> bool:
        epoch, rest = divmod(step, steps_per_epoch)
        return step == total_steps or (rest == 0 and cfg.probe.probe_every > 0 and epoch % cfg.probe.probe_every == 0)

    def probe() -> None:
        if log is None:
            return
        log.probe(where() | validation_probe(features, data, cfg.probe.probe_images, encoder.projector))
        pictures.save_curves(out / "curves.png", read_metrics(out), out.name)

    with clock.paused():
        if step == 0 and rank == 0:
            save()
            _picture_of_views(out, data, loader, draw, clean)
        if step == 0 or (probe_is_due() and log and not log.has_probe(step)):  # stopped before this one
            probe()
    saved_s, marked_step, marked_s = time.monotonic(), step, clock.seconds
    stop, out_of_time = distributed.in_any(bool(stops), out_of_time)

    for epoch in range(step // steps_per_epoch, 0 if out_of_time else cfg.optim.epochs):
        order = epoch_order(data.train_positions, cfg.run.seed, epoch)
        own = own_part(order, batch, step % steps_per_epoch, rank, world_size)
        for images, positions in batches(loader, own, device, epoch=epoch):
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            x = make_views(images, draw(indices=positions, epoch=epoch))  # [views, batch, 3, size, size]
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                _, z = forward(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            terms = loss_of(z.unflatten(0, (views, len(positions))))  # of z [views, batch, dim], in all processes
            to_log = (step + 1) % cfg.run.log_every == 0
            to_save = time.monotonic() - saved_s > cfg.run.save_every_s
            if to_log or to_save or device.type == "cpu":  # on a GPU, looking at the loss waits for it
                _check_finite(terms["loss"], step, out)
            terms["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if to_log and log:
                rate = (step - marked_step) * batch * views / (clock.seconds - marked_s)
                values = {name: term.item() for name, term in terms.items()}
                log.train(where() | {"views_per_s": rate, "lr": schedule(step - 1)} | values)
                marked_step, marked_s = step, clock.seconds
            if to_save:
                with clock.paused():
                    save()
                saved_s = time.monotonic()
            out_of_time = cfg.optim.max_seconds is not None and clock.seconds >= cfg.optim.max_seconds
            stop, out_of_time = distributed.in_any(bool(stops), out_of_time)
            if stop or out_of_time:
                break
        if not stop and (probe_is_due() or out_of_time):
            with clock.paused():
                save()
                probe()
            saved_s, marked_step, marked_s = time.monotonic(), step, clock.seconds
            stop, out_of_time = distributed.in_any(bool(stops), out_of_time)
        if stop or out_of_time:
            break

    if stop:
        save()
        if log is None:
            return 128 + signal.SIGTERM
        log.say(f"stopped at step {step} of {total_steps}; go on with: python -m effssl.train --resume {out}")
        log.close()
        return 128 + (stops[0] if stops else signal.SIGTERM)
    process.stop_listening()  # all is saved: now a signal may end it at once
    if log:
        _finish(cfg, out, data, clean, encoder, step, clock.seconds, log)
        run_lock.release()
    return 0


def main(cfg: Config) -> int:
    """`train` with its errors as the command line shows them: 2 for bad input, 130 for Ctrl-C outside the loop."""
    try:
        with process.orderly(), process.group():
            return train(cfg)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on if training had begun", file=sys.stderr)
        return 130


def _open_loader(cfg: Config, data: Data) -> Loader:
    """Of whole images where they are of one size, to be cropped on the device; else of K crops of each."""
    crops = None
    if data.train.side is None:
        how = {"crop_scale": cfg.augment.crop_scale, "crop_ratio": cfg.augment.crop_ratio}
        crops = MultiViewDecoder(views=cfg.augment.views, size=cfg.augment.image_size, seed=cfg.run.seed, **how)
    own_batch = cfg.optim.batch_size // distributed.world_size()
    return open_loader(data.train.path, own_batch, cfg.images.workers, None, crops)


def _in_parallel(encoder: models.Encoder, device: torch.device) -> nn.Module:
    """Gradients become means over processes, as the losses expect; on GPUs BatchNorm takes its statistics from the
    whole batch, as in one process. On CPUs torch has no such BatchNorm: each process normalises by its own images."""
    if device.type == "cuda":
        timm.layers.convert_sync_batchnorm(encoder)
        return DistributedDataParallel(encoder, [device])
    return DistributedDataParallel(encoder)


def _check_finite(loss: torch.Tensor, step: int, out: Path) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}; last good checkpoint: {out / 'checkpoint.pt'}"
        )


def _picture_of_views(out: Path, data: Data, loader, draw, clean: Clean) -> None:
    some = spread(data.train_positions, 8)
    images, positions = next(batches(loader, some, clean.device))
    # Not the compiled function of the loop: another batch size would make it compile for sizes that vary.
    x = augment.make_views(images, draw(indices=positions, epoch=0), size=clean.size, mean=clean.mean, std=clean.std)
    whole = next(clean_views(data.train, some, clean))
    pictures.save_views(out / "views.png", whole, x, clean.mean, clean.std)


def _introduction(cfg: Config, data: Data, model: nn.Module, device, out: Path, step: int, total_steps: int) -> str:
    count = sum(p.numel() for p in model.parameters()) / 1e6
    test = len(data.test.labels) if data.test else 0
    return (
        f"{out}: {cfg.loss.method}, {cfg.augment.views} views, proj-dim {cfg.model.proj_dim}, {cfg.model.backbone} "
        f"({count:.1f} M parameters) on {device}; {cfg.images.data}: {len(data.train_positions)} training, "
        f"{len(data.val_positions)} validation, {test} test images; steps {step} to {total_steps}"
    )


def _finish(
    cfg: Config, out: Path, data: Data, clean: Clean, encoder: models.Encoder, step: int, seconds: float, log: RunLog
) -> None:
    """Export the backbone, read the test split, and say how it went."""
    m = cfg.model
    description = {
        "backbone": m.backbone,
        "image_size": clean.size,
        "stem": m.stem,
        "backbone_kwargs": m.backbone_kwargs,
    }
    description |= {"mean": clean.mean, "std": clean.std}
    models.save_backbone(encoder.backbone, out / "backbone.safetensors", description)
    rows: dict[str, Features] = {}
    if cfg.probe.final_images:
        log.say("final probes: trained backbone, untrained backbone, pixels")
        rows = {
            "trained": backbone_features(encoder.backbone, clean),
            "untrained": backbone_features(build_encoder(cfg).backbone.to(clean.device), clean),
            "pixels": pixel_features(clean),
        }
    few, at_most = cfg.probe.probe_labels, cfg.probe.final_images
    final = final_rows(rows, data, max_images=at_most, few_labels=few, seed=cfg.images.split_seed)
    encoded = step * cfg.optim.batch_size * cfg.augment.views
    run_folder.write_result(out, final, steps=step, seconds=seconds, encoded_views=encoded, device=clean.device)
    log.close()
    print(f"\n{format_table(final)}\n", *(out / name for name in run_folder.HIGHLIGHTS), sep="\n")
