"""Why a model with personas recommends what it does: the persona that speaks for an item, and the history behind it."""

import numpy as np
import torch

from recbole_persona.runner.naming import history_parts, persona_names

BECAUSE = 3  # history items that stand for a persona


@torch.no_grad()
def persona_reasons(loaded, people, chosen, heads, texts) -> list[dict]:
    """The reasons for the first of the people; fields: :meth:`recbole_persona.runner.loaded.Loaded.explain`.

    Args:
        chosen, heads: of :func:`recbole_persona.runner.people.items_to_explain`.
    """
    dataset = loaded.dataset
    weights = people.explain(np.zeros(len(chosen), dtype=np.int64), chosen).weights  # (N, K)

    history = people.history()
    shares, because = persona_histories(loaded.model, people, history)
    tokens = dataset.id2token(dataset.iid_field, history)
    titles = texts.titles_of(tokens)
    names = persona_names(shares, texts.classes_of(tokens), titles)
    items_of = history_parts(shares).sum(axis=0)

    reasons = []
    for head, weight in zip(heads, weights.double().cpu().numpy()):
        persona = int(weight.argmax())
        reasons.append(
            {
                **head,
                "persona": persona,
                "name": names[persona],
                "share": float(weight[persona]),
                "personas": [
                    {"persona": k, "name": name, "weight": float(weight[k]), "history": int(items_of[k])}
                    for k, name in enumerate(names)
                ],
                "verb": texts.verb,
                "because": [
                    {"item": str(tokens[row]), "title": titles[row], "weight": float(shares[row, persona])}
                    for row in (because[persona] if items_of[persona] else ())
                ],
            }
        )
    return reasons


def persona_histories(model, people, history):
    """How the personas divide the history among them.

    Args:
        history: (H,) internal item ids.

    Returns:
        Weights (H, K) in float64, and for every persona the positions of the items that it attends to most, at least as
        much as if all personas were heard alike; of equal ones first the item that it alone would score higher.
    """
    members = np.zeros(len(history), dtype=np.int64)
    explanation = people.explain(members, torch.as_tensor(history))
    pairs = people.pairs(members, history)
    alone = [model.score_pooled(pairs, part).double().cpu().numpy() for part in explanation.parts.unbind(dim=1)]
    weights = explanation.weights.double().cpu().numpy()  # (H, K)
    even = 1 / weights.shape[1] - 1e-6
    orders = [np.lexsort((-alone[k], -weights[:, k])) for k in range(weights.shape[1])]
    return weights, [[row for row in order if weights[row, k] >= even][:BECAUSE] for k, order in enumerate(orders)]


def has_personas(model) -> bool:
    return hasattr(model, "n_personas")
