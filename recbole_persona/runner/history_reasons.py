"""Why a sequential model recommends what it does: the items of the history that carry it."""

import numpy as np
import torch

from recbole_persona.runner.neighbour_reasons import explains_by_neighbours
from recbole_persona.runner.ranking import is_sequential

NAMED = 3  # items of the history in a sentence
EVENT = "something without an item"  # a search, a visit


def explains_by_history(loaded) -> bool:
    """Whether the model is a sequential one that explains its scores, and not with other users."""
    return is_sequential(loaded) and hasattr(loaded.model, "explain") and not explains_by_neighbours(loaded)


@torch.no_grad()
def history_reasons(loaded, people, chosen, heads, texts) -> list[dict]:
    """The reasons for the first of the people; fields: :meth:`recbole_persona.runner.loaded.Loaded.explain`.

    Args:
        chosen, heads: of :func:`recbole_persona.runner.people.items_to_explain`.
    """
    dataset = loaded.dataset
    pairs = people.pairs(np.zeros(len(chosen), dtype=np.int64), chosen)
    explanation = loaded.model.explain(pairs)
    length = int(pairs[dataset.item_list_length_field][0])
    read = pairs[dataset.item_id_list_field][0, :length].cpu().numpy()
    tokens = dataset.id2token(dataset.iid_field, read)
    titles = [title if item else EVENT for item, title in zip(read, texts.titles_of(tokens))]

    reasons = []
    weights = explanation.weights[:, :length].double().cpu().numpy()
    for head, weight in zip(heads, weights):
        history = [
            {"item": str(past), "title": title, "weight": float(value)}
            for past, title, value in zip(tokens, titles, weight)
        ]
        order = np.argsort(-weight, kind="stable")[:NAMED]
        reasons.append(
            {
                **head,
                "verb": texts.verb,
                "because": [history[place] for place in order if weight[place] > 0],
                "history": history,
                "normalised": explanation.normalised,
            }
        )
    return reasons
