"""The settings of a run: where it goes, what it runs on, and what it tells."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from effssl.ranges import SETTINGS, AtLeast0, AtLeast1, LocalPath, NotNegative, Precision


@dataclass(frozen=True, config=SETTINGS)
class Run:
    """This run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the weights, the order of images and the views."""
    out: LocalPath | None = None
    """Run folder (None: runs/DATE_SET_METHOD_kVIEWS_dDIM)."""
    resume: LocalPath | None = None
    """Run folder to go on with; its own config is used."""
    go_on: bool = False
    """Go on with the run in --out if there is one, with these settings, else begin it: for commands
    that are started again by themselves (torchrun --max-restarts, queues)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda if there is one. Under torchrun BatchNorm is of the
    whole batch."""
    precision: Precision = "auto"
    """Precision of the forward pass; the loss is in float32. auto: on CUDA bf16, or fp16 on cards
    without it; on CPUs fp32. fp16 scales the loss so that its gradients do not vanish."""
    checkpoint_activations: bool = False
    """Compute the backbone's activations again in the backward pass instead of keeping them: less
    memory, more time; BatchNorm's running averages then take in each step twice."""
    compile: Literal["auto", "true", "false"] = "auto"
    """torch.compile for encoder and augmentation (under torchrun the latter); auto: on CUDA."""
    graph_muon: bool = True
    """On CUDA replay Muon's steps from a graph, which spares their launches."""
    deterministic: bool = False
    """On CUDA take algorithms alone that repeat bit for bit, which may be slower; what has none
    ends the run. On CPUs results repeat anyhow."""
    log_to: tuple[Literal["csv", "wandb", "mlflow"], ...] = ()
    """Where numbers go beside metrics.jsonl and TensorBoard; wandb and mlflow are extras."""
    log_every: AtLeast1 = 20
    """Steps between records in metrics.jsonl."""
    save_every_s: NotNegative = 300.0
    """Seconds between checkpoints; others are written at probes, the end, Ctrl-C and SIGTERM."""
    plan: AtLeast0 | None = None
    """Train for some seconds, say what all of it would take (hours, memory, disk) and write
    nothing; as if there were this many training images, if a number follows."""
    look: LocalPath | None = None
    """Say what the images are (kinds, sizes, classes, colours, repeated and damaged ones), and
    draw some beside their views into this .png; nothing is trained or stored."""
    profile: Annotated[int, Field(ge=0)] = 0
    """Steps, after the first five, of which RUN/trace.json tells a trace viewer what took the time;
    20 if no number follows."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Run:
        if self.go_on and self.out is None:
            raise ValueError("--go-on needs --out, the folder of the run")
        return self
