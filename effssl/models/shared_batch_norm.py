"""BatchNorm over the images of all processes where torch has none, on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.run.distributed import all_sum


class SharedBatchNorm(_BatchNorm):
    """What another BatchNorm layer is in one process that has the whole batch.

    In training its statistics are those of all processes' rows, by a sum that autograd
    differentiates as the losses' are (run/distributed.py). Else it is the layer that it stands for,
    with the same parameters and buffers by the same names. What timm's layers do after they
    normalised it does too.

    Args:
        layer: what it stands for, any of torch's or timm's BatchNorm layers.
    """

    def __init__(self, layer: _BatchNorm):
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)
        self.train(layer.training)
        identity = nn.Identity()
        self.drop, self.act = getattr(layer, "drop", identity), getattr(layer, "act", identity)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [n, channels, ...], n of this process; all have to call it together."""
        normalised = self._of_all_processes(x) if self.training else super().forward(x)
        return self.act(self.drop(normalised))

    def _of_all_processes(self, x: Tensor) -> Tensor:
        others = [0, *range(2, x.ndim)]  # all dimensions but the channels'
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = values.numel() // values.shape[1]
        own = values.mean(others, dtype=torch.float64)
        centred = values - own.to(values.dtype).view(shape)
        # What the variance is the difference of is exact in float64, as own squares are centred.
        squares = centred.square().sum(others, dtype=torch.float64) + count * own.square()
        sums = torch.cat([count * own, squares, own.new_tensor([count])])
        total, squares, counts = all_sum(sums).split([self.num_features, self.num_features, 1])
        mean = total / counts
        var = (squares / counts - mean.square()).clamp(min=0)
        self._note(mean.detach(), (var * counts / (counts - 1)).detach())
        scale = torch.rsqrt(var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        # The mean is taken off before x is scaled: where x varies little about it that is exact.
        centre = mean.to(values.dtype)
        shift = (centre - mean) * scale
        shift = shift if self.bias is None else shift + self.bias
        centre, scale, shift = (
            each.to(values.dtype).view(shape) for each in (centre, scale, shift)
        )
        return torch.addcmul(shift, values - centre, scale).to(x.dtype)

    def _note(self, mean: Tensor, var: Tensor) -> None:
        """Move the running averages, as torch's layers do."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        part = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
        self.running_var.lerp_(var.to(self.running_var.dtype), part)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""


def share_batch_norms(model: nn.Module) -> None:
    """Put a SharedBatchNorm in place of every BatchNorm layer below `model`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SharedBatchNorm(child))
