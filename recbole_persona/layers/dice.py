"""Dice, the activation whose shape follows the data."""

import torch
from torch import nn

EPSILON = 1e-8  # of the variance, as in the paper
MOMENTUM = 0.1  # of the running statistics
BLOCK = {"cpu": 2**17, "accelerator": 2**28}  # numbers that are worked on at a time; on a CPU they stay in the cache


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s with p = sigmoid((s - E[s]) / sqrt(Var[s] + epsilon)), per dimension.

    Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, equation 3. E and Var are those of the
    batch in training, running averages otherwise; alpha is learned. A batch of fewer than two rows has no variance, and
    takes the running averages too.

    Args:
        size: dimensions n of the input (..., n).
    """

    def __init__(self, size):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, inputs):
        flat = inputs.flatten(end_dim=-2)  # (N, n)
        of_batch = self.training and len(flat) > 1
        if of_batch:
            mean, var = _mean_and_var(flat.detach())
            self._follow(mean, var, len(flat))
        else:
            mean, var = self.running_mean, self.running_var
        return _Dice.apply(flat, self.alpha, mean, (var + EPSILON).rsqrt(), of_batch).view_as(inputs)

    @torch.no_grad()
    def _follow(self, mean, var, rows):
        self.running_mean.lerp_(mean.to(self.running_mean), MOMENTUM)
        self.running_var.lerp_(var.to(self.running_var) * (rows / (rows - 1)), MOMENTUM)  # as torch's BatchNorm


def _blocks(rows):
    """Slices of rows (N, n) that fit the cache."""
    size = max(1, BLOCK["cpu" if rows.device.type == "cpu" else "accelerator"] // rows.shape[1])
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _exact(dtype):
    """The type to compute in: at least 32 bits."""
    return torch.promote_types(dtype, torch.float32)


def _mean_and_var(rows):
    """Mean and (biased) variance of the columns of (N, n)."""
    mean = rows.sum(dim=0, dtype=_exact(rows.dtype)) / len(rows)
    squares = sum((rows[part] - mean).square_().sum(dim=0) for part in _blocks(rows))
    return mean, squares / len(rows)


class _Dice(torch.autograd.Function):
    """Dice of rows (N, n), a block at a time, so that a dozen elementwise steps read the memory once.

    With t = tanh(z / 2), z = (s - mean) scale: p = (1 + t) / 2, and f = s (c + b t) with c = (1 + alpha) / 2,
    b = (1 - alpha) / 2.
    """

    @staticmethod
    def forward(ctx, rows, alpha, mean, scale, of_batch):
        ctx.save_for_backward(rows, alpha, mean, scale)
        ctx.of_batch = of_batch
        outputs = torch.empty_like(rows)
        alpha, mean, scale = (value.to(_exact(rows.dtype)) for value in (alpha, mean, scale))
        half, shift = scale / 2, -mean * scale / 2
        for part in _blocks(rows):
            bent = torch.addcmul(shift, rows[part], half).tanh_()
            bent = torch.addcmul((1 + alpha) / 2, bent, (1 - alpha) / 2)
            outputs[part] = bent.mul_(rows[part])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        """df/ds = c + b t + s b (1 - t²) / 2 dz/ds, where the mean and the variance in z depend on s too."""
        rows, alpha, mean, scale = ctx.saved_tensors
        dtype = _exact(rows.dtype)
        own_alpha, mean, scale = alpha.to(dtype), mean.to(dtype), scale.to(dtype)
        half, shift = scale / 2, -mean * scale / 2
        flat, slope = (1 + own_alpha) / 2, (1 - own_alpha) / 2
        total = torch.empty_like(rows, dtype=dtype)
        along, straight, bent_along, moment = (torch.zeros_like(own_alpha) for _ in range(4))
        for part in _blocks(rows):
            s, g = rows[part].to(dtype), gradient[part].to(dtype)
            bent = torch.addcmul(shift, s, half).tanh_()  # t
            step = torch.mul(g, s, out=total[part])  # g s
            straight += step.sum(dim=0)
            work = step * bent
            bent_along += work.sum(dim=0)
            step.addcmul_(work, bent, value=-1)  # g s (1 - t²)
            along += step.sum(dim=0)
            moment += torch.mul(step, s, out=work).sum(dim=0)
            step.mul_(slope * half)
            step.addcmul_(g, torch.addcmul(flat, bent, slope, out=work))
        if ctx.of_batch:  # what z owes to the mean and the variance
            along, moment = along * slope / (2 * len(rows)), moment * slope / (2 * len(rows))  # means of df/dz, s df/dz
            tilt = scale**3 * (moment - mean * along)
            offset = mean * tilt - scale * along
            for part in _blocks(rows):
                total[part].add_(offset).addcmul_(rows[part].to(dtype), tilt, value=-1)
        return total.to(rows.dtype), ((straight - bent_along) / 2).to(alpha.dtype), None, None, None
