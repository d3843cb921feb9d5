"""Pretrain a timm backbone with K-view VICReg or Barlow Twins.

python -m effssl.train --views 4 --proj-dim 256                       # scikit-learn's digits
python -m effssl.train --config configs/cifar10.yaml --data-dir DIR   # CIFAR-10
python -m effssl.train --data folder --data-dir MY_IMAGES             # your own
python -m effssl.train --resume RUN
"""

from __future__ import annotations

import sys

from effssl import InputError, config

if __name__ == "__main__":
    # Before the imports below, which take seconds: --help and a typo should not.
    COMMAND_LINE = config.parse_or_exit()

import dataclasses
import datetime
import functools
import json
import os
import platform
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from effssl import __version__, augment, checkpoint, losses, models, optim, pictures
from effssl.config import Config
from effssl.data import Data, open_data
from effssl.data.loader import batches, open_loader
from effssl.data.splits import epoch_order
from effssl.evaluate import Clean, backbone_features, final_rows, format_table, pixel_features, validation_probe
from effssl.log import Clock, RunLog, read_metrics


def train(cfg: Config) -> int:
    """Run `cfg` to its end, or until it is told to stop; returns the exit code.

    Leaves in the run folder: config.yaml, metrics.jsonl, tensorboard/, checkpoint.pt, backbone.safetensors,
    result.json, views.png, curves.png. Raises InputError before anything is written there, FloatingPointError on a
    non-finite loss, RuntimeError when loading fails.
    """
    out = _free_folder(cfg)
    device, autocast, compiled = _where_it_runs(cfg)
    batch, views = cfg.optim.batch_size, cfg.augment.views
    data, clean = _open_images(cfg, device, torch.bfloat16 if autocast else torch.float32)
    loader = open_loader(data.train.path, batch, cfg.images.workers, None if data.train.side else clean.canvas)
    encoder = _build_encoder(cfg).to(device)
    optimizer = optim.build_optimizer(
        encoder, cfg.optim.optimizer, lr=cfg.optim.lr, weight_decay=cfg.optim.weight_decay
    )
    forward = torch.compile(encoder) if compiled else encoder
    make_views = functools.partial(
        torch.compile(augment.make_views) if compiled else augment.make_views,
        size=clean.size, mean=clean.mean, std=clean.std,
    )  # fmt: skip
    side = data.train.side or clean.canvas  # of the images that reach the device
    draw = functools.partial(augment.draw, stored=(side, side), views=views, seed=cfg.run.seed, **_strengths(cfg))
    loss_of = _loss(cfg)
    features = backbone_features(encoder.backbone, clean)
    steps_per_epoch = len(data.train_positions) // batch
    total_steps = cfg.optim.epochs * steps_per_epoch
    schedule = functools.partial(
        optim.learning_rate, peak=cfg.optim.lr, final=cfg.optim.final_lr,
        warmup_steps=round(cfg.optim.warmup_epochs * steps_per_epoch), total_steps=total_steps,
    )  # fmt: skip

    step, seconds = _restore(out, encoder, optimizer, data) if cfg.run.resume else (0, 0.0)
    out_of_time = cfg.optim.max_seconds is not None and seconds >= cfg.optim.max_seconds
    if (out / "result.json").is_file() and (step == total_steps or out_of_time):
        print(f"{out} is finished\n{format_table(json.loads((out / 'result.json').read_text())['final'])}")
        return 0
    run_lock = _claim(out, cfg)
    log = RunLog(out, start_step=step, total_steps=total_steps)
    log.say(_introduction(cfg, data, encoder, device, out, step, total_steps))
    clock = Clock(seconds, functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None)
    stops = _listen()

    def save() -> None:
        state = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "random": _random_state(device)}
        checkpoint.save(out / "checkpoint.pt", state | {"step": step, "seconds": clock.seconds, "images": _which(data)})

    def where() -> dict[str, Any]:
        encoded = step * batch * views
        return {"step": step, "epoch": step / steps_per_epoch, "seconds": clock.seconds, "encoded_views": encoded}

    def probe() -> None:
        log.probe(where() | validation_probe(features, data, cfg.probe.probe_images))
        pictures.save_curves(out / "curves.png", read_metrics(out), out.name)

    if step == 0:
        with clock.paused():
            _picture_of_views(out, data, loader, draw, make_views, clean)
            probe()
            save()
    saved_s, marked_step, marked_s = time.monotonic(), step, clock.seconds

    for epoch in range(step // steps_per_epoch, 0 if out_of_time else cfg.optim.epochs):
        order = epoch_order(data.train_positions, cfg.run.seed, epoch)[: steps_per_epoch * batch]
        for images, positions in batches(loader, order[step % steps_per_epoch * batch :], device):
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            x = make_views(images, draw(indices=positions, epoch=epoch))  # [views, batch, 3, size, size]
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                _, z = forward(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            terms = loss_of(z.unflatten(0, (views, batch)))  # of z [views, batch, dim]
            to_log = (step + 1) % cfg.run.log_every == 0
            to_save = time.monotonic() - saved_s > cfg.run.save_every_s
            if to_log or to_save or device.type == "cpu":  # on a GPU, looking at the loss waits for it
                _check_finite(terms.loss, step, out)
            terms.loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if to_log:
                rate = (step - marked_step) * batch * views / (clock.seconds - marked_s)
                log.train(where() | {"views_per_s": rate, "lr": schedule(step - 1)} | _named(terms))
                marked_step, marked_s = step, clock.seconds
            if to_save:
                with clock.paused():
                    save()
                saved_s = time.monotonic()
            out_of_time = cfg.optim.max_seconds is not None and clock.seconds >= cfg.optim.max_seconds
            if stops or out_of_time:
                _check_finite(terms.loss, step, out)
                break
        last = step == total_steps or out_of_time
        if not stops and (last or (cfg.probe.probe_every and (epoch + 1) % cfg.probe.probe_every == 0)):
            with clock.paused():
                _check_finite(terms.loss, step, out)
                probe()
                save()
            saved_s, marked_step, marked_s = time.monotonic(), step, clock.seconds
        if stops or last:
            break

    if stops:
        save()
        log.say(f"stopped at step {step} of {total_steps}; go on with: python -m effssl.train --resume {out}")
        log.close()
        return 128 + stops[0]
    _finish(cfg, out, data, clean, encoder, step, clock.seconds, log)
    run_lock.release()
    return 0


def main(cfg: Config) -> int:
    """`train` with its errors as the command line shows them: 2 for bad input, 130 for Ctrl-C before the loop."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return train(cfg)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before training began", file=sys.stderr)
        return 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _free_folder(cfg: Config) -> Path:
    """The run folder, not made yet. Raises InputError if it holds a run already or could not be made."""
    if cfg.run.resume:
        return cfg.run.resume
    name = f"{cfg.images.data}_{cfg.loss.method}_k{cfg.augment.views}_d{cfg.model.proj_dim}"
    out = cfg.run.out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S}_{name}"
    if (out / "config.yaml").exists() or (out / "checkpoint.pt").exists():
        raise InputError(f"--out {out} already holds a run; go on with --resume {out} or name another folder")
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(f"--out {out} cannot be written: {existing} is not a folder that you may write to")
    return out


def _claim(out: Path, cfg: Config) -> FileLock:
    """Make the run folder, save the resolved config, and keep other processes from training in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
        config.save(cfg, out / "config.yaml")
    except Timeout:
        raise InputError(f"{out} is being trained by another process") from None
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    return lock


def _where_it_runs(cfg: Config) -> tuple[torch.device, bool, bool]:
    """(device, bf16 autocast, torch.compile) for `--device`, `--precision` and `--compile`."""
    name = cfg.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: no such device; auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices")
    on_gpu = device.type == "cuda"
    autocast = on_gpu if cfg.run.precision == "auto" else cfg.run.precision == "bf16"
    compiled = on_gpu if cfg.run.compile == "auto" else cfg.run.compile == "true"
    return device, autocast, compiled


def _open_images(cfg: Config, device: torch.device, dtype: torch.dtype) -> tuple[Data, Clean]:
    images = cfg.images
    data = open_data(
        images.data,
        images.data_dir,
        beton_dir=images.beton_dir,
        val_fraction=images.val_fraction,
        fraction=images.fraction,
        split_seed=images.split_seed,
        max_side=images.max_side,
        jpeg_quality=images.jpeg_quality,
        workers=images.workers,
    )
    count = len(data.train_positions)
    if cfg.optim.batch_size > count:
        raise InputError(f"--batch-size {cfg.optim.batch_size} is larger than the set: {count} training images")
    # Images of varied size reach the device as squares somewhat larger than a view, of which the crops are cut.
    canvas = round(1.5 * images.image_size)
    return data, Clean(images.image_size, cfg.augment.mean, cfg.augment.std, canvas, images.workers, device, dtype)


def _build_encoder(cfg: Config) -> models.Encoder:
    """Backbone and projector with the weights that the seed gives, in channels_last."""
    torch.manual_seed(cfg.run.seed)
    m = cfg.model
    backbone = models.create_backbone(m.backbone, cfg.images.image_size, stem=m.stem, kwargs=m.backbone_kwargs)
    encoder = models.Encoder(backbone, m.proj_hidden_dim or m.proj_dim, m.proj_dim, m.proj_layers)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _loss(cfg: Config) -> functools.partial:
    settings = cfg.loss
    if settings.method == "vicreg":
        weights = {k: getattr(settings, k) for k in ("inv_weight", "var_weight", "cov_weight")}
        return functools.partial(losses.vicreg, **weights)
    weight = settings.redundancy_weight
    return functools.partial(
        losses.barlow_twins,
        redundancy_weight=losses.redundancy_weight(cfg.model.proj_dim) if weight == "auto" else weight,
        pairing=settings.pairing,
    )


def _strengths(cfg: Config) -> dict[str, Any]:
    settings = dataclasses.asdict(cfg.augment)
    return {k: v for k, v in settings.items() if k not in ("views", "mean", "std")}


def _named(terms: losses.VICReg | losses.BarlowTwins) -> dict[str, float]:
    return {k if k == "loss" else f"loss/{k}": v.item() for k, v in terms._asdict().items()}


def _check_finite(loss: torch.Tensor, step: int, out: Path) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}; last good checkpoint: {out / 'checkpoint.pt'}"
        )


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state()} | cuda


def _which(data: Data) -> str:
    """Tells one set of training images from another by their number and labels, wherever they lie."""
    return f"{len(data.train.labels)} images, labels {zlib.crc32(data.train.labels.tobytes()):08x}"


def _restore(out: Path, encoder: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> tuple[int, float]:
    state = checkpoint.load(out / "checkpoint.pt")
    if state["images"] != _which(data):
        raise InputError(f"--resume {out}: its images were others ({state['images']}; here {_which(data)})")
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random"]["cuda"])
    return state["step"], state["seconds"]


def _listen() -> list[int]:
    """Signals that asked to stop, as they come in; a second one ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


def _picture_of_views(out: Path, data: Data, loader, draw, make_views, clean: Clean) -> None:
    some = data.train_positions[:: max(1, len(data.train_positions) // 8)][:8]
    images, positions = next(batches(loader, some, clean.device))
    x = make_views(images, draw(indices=positions, epoch=0))
    pictures.save_views(out / "views.png", images, x, clean.mean, clean.std)


def _introduction(cfg: Config, data: Data, model: nn.Module, device, out: Path, step: int, total_steps: int) -> str:
    count = sum(p.numel() for p in model.parameters()) / 1e6
    test = len(data.test.labels) if data.test else 0
    return (
        f"{out}: {cfg.loss.method}, {cfg.augment.views} views, proj-dim {cfg.model.proj_dim}, {cfg.model.backbone} "
        f"({count:.1f} M parameters) on {device}; {cfg.images.data}: {len(data.train_positions)} training, "
        f"{len(data.val_positions)} validation, {test} test images; steps {step} to {total_steps}"
    )


def _hardware(device: torch.device) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": model, "cpu_cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _finish(
    cfg: Config, out: Path, data: Data, clean: Clean, encoder: models.Encoder, step: int, seconds: float, log: RunLog
) -> None:
    """Export the backbone, read the test split, and say how it went."""
    description = {
        "backbone": cfg.model.backbone,
        "image_size": cfg.images.image_size,
        "stem": cfg.model.stem,
        "backbone_kwargs": cfg.model.backbone_kwargs,
        "mean": cfg.augment.mean,
        "std": cfg.augment.std,
    }
    models.save_backbone(encoder.backbone, out / "backbone.safetensors", description)
    log.say("final probes: trained backbone, untrained backbone, pixels")
    untrained = _build_encoder(cfg).backbone.to(clean.device)
    rows = {
        "trained": backbone_features(encoder.backbone, clean),
        "untrained": backbone_features(untrained, clean),
        "pixels": pixel_features(clean),
    }
    final = final_rows(
        rows,
        data,
        max_images=cfg.probe.final_images,
        few_labels=cfg.probe.probe_labels,
        seed=cfg.images.split_seed,
    )
    encoded = step * cfg.optim.batch_size * cfg.augment.views
    result = {
        "final": final,
        "steps": step,
        "seconds": round(seconds, 3),
        "encoded_views": encoded,
        "views_per_s": round(encoded / seconds, 1),
        "hardware": _hardware(clean.device),
        "versions": {"effssl": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
    }
    temporary = out / "result.tmp"
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(out / "result.json")
    log.close()
    print(f"\n{format_table(final)}\n")
    for label, name in (("pictures", "views.png"), ("", "curves.png"), ("checkpoint", "checkpoint.pt"),
                        ("backbone", "backbone.safetensors"), ("result", "result.json")):  # fmt: skip
        print(f"{label:<12} {out / name}")


if __name__ == "__main__":
    sys.exit(main(COMMAND_LINE))
