"""Does an explanation name what made the score? Remove it from the pooled vector and see.

A part with a large weight is removed, that is, its contribution ``weight * part`` is taken from the pooled vector, and
the drop of the score is compared with that of removing as much of something else: a random vector of the same length,
or another part. A faithful explanation loses more than both. Only ``explain`` and ``score_pooled`` of a model are used.
"""

import pandas as pd
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_persona.errors import UserError
from recbole_persona.evaluate.collector import with_items

REMOVED = ("top parts", "random vectors", "other parts")


def recommended_pairs(trainer, eval_data, users=256, topk=10, seed=0):
    """A sample of users (test rows, for sequential models), each with its best ``topk`` items.

    Args:
        trainer: holds the model; RecBole's own scoring and masking are used.
        eval_data: a full-ranking loader.
        users: size of the sample, at most all.
        topk: items per user.
        seed: of the sample.

    Returns:
        Interaction of ``users * topk`` rows, with the item's features.
    """
    if not isinstance(eval_data, FullSortEvalDataLoader):
        raise UserError("Faithfulness is measured on full rankings; set mode in eval_args to full.")
    dataset = eval_data._dataset
    order = torch.randperm(eval_data.sample_size, generator=torch.Generator().manual_seed(seed))
    trainer.tot_item_num, trainer.item_tensor = dataset.item_num, dataset.get_item_feature().to(trainer.device)
    trainer.model.eval()
    with torch.no_grad():
        batch = eval_data.collate_fn(order[:users].tolist())
        rows, scores, *_ = trainer._full_sort_batch_eval(batch)
    items = scores.topk(topk, dim=1).indices.cpu()  # (users, topk)
    return with_items(rows, items, dataset.iid_field, dataset.get_item_feature())


@torch.no_grad()
def faithfulness(model, interaction, top=3, draws=8, seed=0, batch_size=2048) -> pd.DataFrame:
    """Drop of the score when parts are removed, against removing something else of the same size.

    Parts are removed by falling weight. ``random vectors`` have, at every step, the length of what the parts removed so
    far amount to; ``other parts`` are removed in random order, and the heaviest is never among them. Both are averaged
    over ``draws`` first. AOPC is the mean drop over removing the first 1, 2, … ``top``.

    Args:
        model: with ``explain`` and ``score_pooled``.
        interaction: (user, item) pairs, such as :func:`recommended_pairs` gives.
        top: number of parts removed, one after another.
        draws: random removals per pair.
        seed: of the random removals.
        batch_size: pairs at once.

    Returns:
        One row for each of ``REMOVED``: ``drop`` and ``drop_sd`` (mean and standard deviation over pairs of the drop at
        the first removal), ``aopc`` and ``aopc_sd``, ``pairs`` (for which the value is defined: a pair with one part
        has no other), and ``below_top`` (share of pairs whose drop is smaller than that of the top part).
    """
    if not hasattr(model, "explain") or not hasattr(model, "score_pooled"):
        raise UserError(f"{type(model).__name__} does not explain: faithfulness needs explain and score_pooled.")
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, len(interaction), batch_size):
        batch = interaction[slice(start, start + batch_size)].to(device)
        batches.append(_drops(model, batch, top, draws, generator))
    drops = torch.cat(batches, dim=1).cpu().numpy()  # (removals, pairs, top)
    # pandas leaves out what is NaN, not defined: (pairs, removals)
    first, area = pd.DataFrame(drops[..., 0].T, columns=REMOVED), pd.DataFrame(drops.mean(-1).T, columns=REMOVED)
    below = first.lt(first[REMOVED[0]], axis=0).where(first.notna())
    rows = {
        "drop": first.mean(),
        "drop_sd": first.std(),
        "aopc": area.mean(),
        "aopc_sd": area.std(),
        "pairs": first.count(),
        "below_top": below.mean(),
    }
    return pd.DataFrame(rows).rename_axis("removed").reset_index()


def _drops(model, batch, top, draws, generator):
    """Drop of the score after each of ``top`` removals: (len(REMOVED), B, top), float64, NaN where not defined."""
    explanation = model.explain(batch)
    weights, pooled = explanation.weights, explanation.pooled
    parts = weights.unsqueeze(-1) * explanation.parts  # (B, n, d), what every part contributes
    score = model.score_pooled(batch, pooled)

    def drop_without(removed):
        """Drop of the score without ``removed`` (B, top, d), step by step: (B, top)."""
        return torch.stack([score - model.score_pooled(batch, pooled - step) for step in removed.unbind(1)], 1).double()

    padding = weights == 0
    by_weight = weights.masked_fill(padding, -torch.inf)
    heaviest = by_weight.argmax(1, keepdim=True)
    removed = _removed(parts, by_weight, top)
    without_heaviest = parts.scatter(1, heaviest.unsqueeze(-1).expand(-1, -1, parts.shape[-1]), 0.0)
    vectors = others = 0.0
    for _ in range(draws):
        noise = torch.randn(removed.shape, generator=generator).to(removed)
        vectors = vectors + drop_without(noise * (removed.norm(dim=-1) / noise.norm(dim=-1)).unsqueeze(-1))
        at_random = torch.rand(weights.shape, generator=generator).to(weights).masked_fill(padding, -1.0)
        others = others + drop_without(_removed(without_heaviest, at_random.scatter(1, heaviest, -2.0), top))
    others[(~padding).sum(1) < 2] = torch.nan
    return torch.stack([drop_without(removed), vectors / draws, others / draws]).cpu()


def _removed(parts, keys, top):
    """Sum of the first 1, 2, … ``top`` parts by falling key: (B, top, d); once all n are gone, it stays.

    Args:
        parts: (B, n, d).
        keys: (B, n).
    """
    order = keys.argsort(dim=1, descending=True, stable=True)[:, :top]
    sums = parts.gather(1, order.unsqueeze(-1).expand(-1, -1, parts.shape[-1])).cumsum(1)  # (B, min(top, n), d)
    return torch.cat([sums, sums[:, -1:].expand(-1, top - sums.shape[1], -1)], dim=1)
