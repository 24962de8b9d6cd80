"""From a finished run to recommendations for people, and to the reasons. Ids are external ones, those of the files."""

import sys

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from recbole_persona.data.titles import item_texts
from recbole_persona.errors import UserError
from recbole_persona.evaluate.faithfulness import faithfulness
from recbole_persona.runner.history_reasons import explains_by_history, history_reasons
from recbole_persona.runner.naming import history_parts, persona_names
from recbole_persona.runner.neighbour_reasons import explains_by_neighbours, neighbour_reasons
from recbole_persona.runner.people import find_people, internal_ids, items_to_explain
from recbole_persona.runner.ranking import batches, search_for, top_items
from recbole_persona.runner.training import load

BECAUSE = 3  # history items that stand for a persona


def recommend(run_dir, users=None, history=None, topk=10, **options) -> pd.DataFrame:
    """The best items for users of a finished run, or for a new user.

    Args:
        run_dir: folder of the run, of any model.
        users: external ids (str or int); all users of the data set if None.
        history: external item ids that a new user chose, in their order; instead of ``users``.
        topk: items for each user.
        options: as for :func:`recommend_batches`.

    Returns:
        Columns ``user, rank, item, title, score``, best first within each user (``title`` when the data set has any),
        and for a model with personas ``persona``, the index of the one with the largest weight, and ``share``, its
        weight. A user with fewer unseen items than ``topk`` has fewer rows.

    Raises:
        UserError: an unknown user or item, an empty history, a model that cannot do it.
    """
    return pd.concat(recommend_batches(run_dir, users, history, topk, **options), ignore_index=True)


def recommend_batches(
    run_dir,
    users=None,
    history=None,
    topk=10,
    *,
    mask_history=True,
    skip_unknown=False,
    title_field=None,
    config_dict=None,
    trust=False,
):
    """:func:`recommend` for one batch of users after the other: memory does not grow with their number.

    Args:
        mask_history: leave out every item that the user is known to have interacted with, in any part of the split.
        skip_unknown: leave items of ``history`` that the data set lacks out, in place of an error.
        title_field: column of the ``.item`` file with the titles, if its name is not a common one.
        config_dict: settings to change, such as ``gpu_id``.
        trust: run the code that only the run's ``config.yaml`` names.
    """
    _check_topk(topk)
    loaded = load(run_dir, config_dict, trust, "recommend")
    search_for(loaded, topk)
    people = find_people(loaded, users, history, skip_unknown)
    texts = item_texts(loaded.config, title_field)
    parts = batches(np.arange(len(people.labels)), loaded.dataset.item_num, loaded.config["eval_batch_size"])
    for members in tqdm(parts, desc="users", unit="batch", disable=len(parts) == 1 or not sys.stderr.isatty()):
        yield _ranked(loaded, people, members, topk, mask_history, texts)


@torch.no_grad()
def _ranked(loaded, people, members, topk, mask_history, texts) -> pd.DataFrame:
    """The table of :func:`recommend` for some of the people."""
    seen = people.seen(members) if mask_history else None
    scores, items = top_items(people.scores(members, seen), seen, topk)
    row, rank = torch.nonzero(torch.isfinite(scores), as_tuple=True)
    chosen = items[row, rank]
    tokens = loaded.dataset.id2token(loaded.dataset.iid_field, chosen.cpu().numpy())
    table = pd.DataFrame(
        {
            "user": people.labels[members][row.cpu()],
            "rank": rank.cpu().numpy() + 1,
            "item": tokens,
            "score": scores[row, rank].double().cpu().numpy(),
        }
    )
    if len(texts.titles):
        table.insert(3, "title", texts.titles.reindex(tokens).fillna("").to_numpy())
    if has_personas(loaded.model):
        share, persona = people.explain(members[row.cpu()], chosen).weights.max(dim=1)
        table["persona"], table["share"] = persona.cpu().numpy(), share.double().cpu().numpy()
    return table


def explain(
    run_dir,
    user=None,
    topk=10,
    items=None,
    *,
    history=None,
    skip_unknown=False,
    title_field=None,
    class_field=None,
    config_dict=None,
    trust=False,
) -> list[dict]:
    """Why a user gets what they get: the personas behind each recommendation, and the history behind each persona.

    A sequential model that explains (UserEncoder, DIN) has no personas: the history speaks for itself. PeaPOD listens to
    similar users.

    Args:
        run_dir: folder of a run of a model with personas, of a sequential one that explains, or of PeaPOD.
        user: external user id.
        topk: how many of the best unseen items to explain.
        items: external item ids to explain, in place of the best.
        history: external item ids that a new user chose, in place of ``user``.
        skip_unknown, title_field, config_dict, trust: as for :func:`recommend_batches`.
        class_field: column of the ``.item`` file with genres or categories, if its name is not a common one.

    Returns:
        A dict for each recommendation:

        - ``user, rank, item, title, score``: the rank is that among the unseen items;
        - ``persona, name, share``: index, name and weight of the persona with the largest weight;
        - ``personas``: ``{persona, name, weight, history}`` of every one; the weights made the score and sum to one;
          ``history`` counts the training interactions for which the persona has the largest weight;
        - ``because``: the training interactions that the persona attends to most, ``{item, title, weight}``;
        - ``verb``: what the user did with them (``watched``, ``read``, ``chose``).

        Of a sequential model: ``user, rank, item, title, score, verb``;

        - ``because``: the items of the history that carry the most, ``{item, title, weight}``, as far as above 0;
        - ``history``: all that the model read, the oldest first;
        - ``normalised``: whether the weights sum to one; what they are is said by the model's ``explain``.

        Of PeaPOD: ``user, rank, item, title, score, verb``;

        - ``neighbours``: whom the model listens to, the most heard first, for every item alike: ``user``, ``weight`` (the
          mean over the heads; these sum to one), ``heads`` (the weight in each head), ``shared`` (how many items the user
          has in common with them) and ``chose``, some of their training items, ``{item, title}``, those in common first;
        - ``because``: those of them who chose this item; ``share``: their weight.

    Raises:
        UserError: an unknown user or item, or a model that does not explain.
    """
    _check_topk(topk)
    if (user is None) == (history is None):
        raise UserError("Name one user to explain for, or a history.")
    loaded = _load_with_reasons(run_dir, config_dict, trust)
    search_for(loaded, topk)
    people = find_people(loaded, None if user is None else [user], history, skip_unknown)
    texts = item_texts(loaded.config, title_field, class_field)
    chosen, heads = items_to_explain(loaded, people, topk, items, texts)
    if not len(chosen):
        return []
    reasons = history_reasons if explains_by_history(loaded) else _persona_reasons
    reasons = neighbour_reasons if explains_by_neighbours(loaded) else reasons
    return reasons(loaded, people, chosen, heads, texts)


def check_explanations(run_dir, user, items, config_dict=None, trust=False) -> pd.DataFrame:
    """:func:`recbole_persona.evaluate.faithfulness.faithfulness` of the explanations of some items for one user.

    Args:
        user: external id of a user of the data set.
        items: external item ids.
    """
    loaded = _load_with_reasons(run_dir, config_dict, trust)
    ids = internal_ids(loaded.dataset, loaded.dataset.iid_field, items, "item")
    pairs = find_people(loaded, [user]).pairs(np.zeros_like(ids), ids)
    return faithfulness(loaded.model, pairs, top=min(3, loaded.model.n_personas) if has_personas(loaded.model) else 3)


def _load_with_reasons(run_dir, config_dict, trust):
    loaded = load(run_dir, config_dict, trust, "explain")
    ways = (has_personas(loaded.model), explains_by_history(loaded), explains_by_neighbours(loaded))
    if not any(ways):
        raise UserError(
            f"{loaded.config['model']} has no personas to explain with; a run of AMPCF has, "
            "runs of UserEncoder and DIN explain with the history, and those of PeaPOD with similar users."
        )
    return loaded


@torch.no_grad()
def _persona_reasons(loaded, people, chosen, heads, texts) -> list[dict]:
    """The reasons of :func:`explain` for the first of the people; ``chosen, heads`` are those of :func:`items_to_explain`."""
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
                    for row in because[persona]
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


def _check_topk(topk):
    if topk < 1:
        raise UserError(f"topk is a number of items, 1 or more, not {topk}.")
