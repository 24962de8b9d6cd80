"""Why a model that listens to similar users recommends what it does: who they are, and which of them chose it."""

import numpy as np
import torch

from recbole_persona.data.training_part import training_matrix
from recbole_persona.runner.people import KnownUsers

CHOSE = 5  # items of a neighbour that are shown, those in common first


def explains_by_neighbours(loaded) -> bool:
    """Whether the model explains with users (PeaPOD)."""
    return hasattr(loaded.model, "neighbours") and hasattr(loaded.model, "explain")


@torch.no_grad()
def neighbour_reasons(loaded, people, chosen, heads, texts) -> list[dict]:
    """The reasons for the first of the people; fields: :meth:`recbole_persona.runner.loaded.Loaded.explain`.

    Args:
        chosen, heads: of :func:`recbole_persona.runner.people.items_to_explain`.
    """
    dataset = loaded.dataset
    pairs = people.pairs(np.zeros(len(chosen), dtype=np.int64), chosen)
    scores = loaded.model.predict(pairs).tolist()  # beam search has none for most of the items that can be named
    attended = loaded.model.attended(pairs)
    present = attended.neighbours[0] > 0
    near = attended.neighbours[0, present].cpu().numpy()
    weights = attended.weights[0][:, present].double().cpu().numpy()  # (H, n)
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    near, weights = near[order], weights[:, order]

    met = training_matrix(loaded.train_data._dataset)
    known = isinstance(people, KnownUsers)
    own = met.indices[met.indptr[people.ids[0]] : met.indptr[people.ids[0] + 1]] if known else people.history()
    neighbours = []
    for user, name, weight in zip(near, dataset.id2token(dataset.uid_field, near), weights.T):
        taken = met.indices[met.indptr[user] : met.indptr[user + 1]]
        shared = np.isin(taken, own)
        shown = np.concatenate([taken[shared], taken[~shared]])[:CHOSE]
        tokens = dataset.id2token(dataset.iid_field, shown)
        neighbours.append(
            {
                "user": str(name),
                "weight": float(weight.mean()),
                "heads": weight.tolist(),
                "shared": int(shared.sum()),
                "chose": [
                    {"item": str(token), "title": title} for token, title in zip(tokens, texts.titles_of(tokens))
                ],
            }
        )
    reasons = []
    for head, item, score in zip(heads, chosen.cpu().numpy(), scores):
        because = [one for one, user in zip(neighbours, near) if met[user, item]]
        share = sum(one["weight"] for one in because)
        said = {"score": score, "verb": texts.verb, "share": share, "because": because, "neighbours": neighbours}
        reasons.append(head | said)
    return reasons
