"""Cross-entropy over a large table: of all its entries, in tiles, or of a sample of them.

Shapes: N rows, V entries of the table, d dimensions, n rows of a tile, S targets of a row.
"""

import math

import torch

TILE = {"cpu": 2**24, "accelerator": 2**26}  # scores at a time, at most
ROWS = 96  # of a tile on a CPU: with fewer a product is slow, with more the scores leave the cache


def table_cross_entropy(states, table, target, share=None, tile=None):
    """Mean over the rows of -log softmax(states . table) at their targets.

    Values and gradients are those of ``F.cross_entropy(states @ table.T, target)``. Memory: one tile of scores, and the
    gradients of both factors, which are made in the forward pass. There are no second derivatives.

    Args:
        states: (N, d).
        table: (V, d).
        target: (N,) int64, entries of the table; or (N, S), with ``share``.
        share: (N, S), what each of several targets counts; a row sums to one.
        tile: scores held at a time; if None, of ``TILE``, and on a CPU of ``ROWS`` rows.

    Returns:
        A number, of 32 bits at least; 0 without rows.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states, table = (value.to(torch.get_autocast_dtype(device)) for value in (states, table))
    if not len(states):
        return (states.sum() + table.sum()).float() * 0.0  # whose gradients are zeros
    if share is None:
        target, share = target.unsqueeze(1), states.new_ones(len(target), 1)
    step = (tile or TILE["cpu" if device == "cpu" else "accelerator"]) // len(table)
    if tile is None and device == "cpu":
        step = min(step, ROWS)
    with torch.autocast(device, enabled=False):
        return _TiledCrossEntropy.apply(states, table, target, share, max(1, step))


class _TiledCrossEntropy(torch.autograd.Function):
    """Three products a tile, as few as can be: scores, gradient of the states, gradient of the table.

    The gradient of the table is summed as (d, V), and the scores read a table that is stored as (d, V): at the
    rows of a tile on a CPU this takes about as long as (V, d), with more rows less (benchmarks/softmax_loss.py has the former).
    """

    @staticmethod
    def forward(ctx, states, table, target, share, step):
        exact = torch.promote_types(states.dtype, torch.float32)
        share = share.to(exact)
        transposed = table.T.contiguous()
        place = states.new_empty(min(step, len(states)), len(table))
        state_gradient = torch.empty_like(states)
        turned = torch.zeros(table.shape[::-1], dtype=exact, device=table.device)  # (d, V), gradient of the table
        loss = torch.zeros((), dtype=exact, device=states.device)
        for start in range(0, len(states), step):
            tile = slice(start, start + step)
            rows = states[tile]  # (n, d)
            scores = torch.mm(rows, transposed, out=place[: len(rows)]).to(exact)  # (n, V)
            highest = scores.amax(dim=1, keepdim=True)
            chosen = (scores.gather(1, target[tile]) * share[tile]).sum()
            exp_scores = scores.sub_(highest).exp_()
            total = exp_scores.sum(dim=1, keepdim=True)
            loss += (total.log() + highest).sum() - chosen
            # The softmax is exp_scores / total: in each product the smaller factor is the one that is divided.
            exp_scores = exp_scores.to(states.dtype)
            state_gradient[tile] = (exp_scores @ table) / total
            rows = (rows / total).to(exp_scores.dtype).T  # (d, n)
            if rows.dtype == exact:
                turned.addmm_(rows, exp_scores)
            else:
                turned += rows @ exp_scores
        table_gradient = turned.T.contiguous()
        for own, part in zip(target.unbind(1), share.unsqueeze(2).unbind(1)):
            state_gradient -= (table[own] * part).to(states.dtype)
            table_gradient.index_add_(0, own, states * part, alpha=-1)
        ctx.save_for_backward(state_gradient, table_gradient.to(table.dtype))
        return loss / len(states)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        of_states, of_table = ctx.saved_tensors
        factor = gradient / len(of_states)
        return of_states * factor, of_table * factor, None, None, None


def sampled_cross_entropy(states, table, target, number):
    """As :func:`table_cross_entropy`, with ``number`` entries of the table, drawn evenly, standing for all of them.

    Every row is compared with its target and with the same sample, drawn without repetition, its own target left out.
    Each drawn entry counts V / ``number`` times (the correction by log q of Bengio and Senécal 2008): the sum under the
    logarithm is right on average, and a sample of all entries is the whole softmax.

    Args:
        states: (N, d).
        table: (V, d).
        target: (N,).
        number: of entries; memory grows with N x ``number``.
    """
    if number >= len(table) or not len(states):
        return table_cross_entropy(states, table, target)
    drawn = torch.randperm(len(table), device=table.device)[:number]
    scores = (states @ table[drawn].T).float() + math.log(len(table) / number)  # (N, number)
    scores = scores.masked_fill(drawn == target.unsqueeze(1), -torch.inf)
    own = (states * table[target]).sum(dim=1, keepdim=True).float()  # (N, 1)
    return (torch.cat([own, scores], dim=1).logsumexp(dim=1) - own.squeeze(1)).mean()
