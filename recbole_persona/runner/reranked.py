"""A finished run with its lists re-ranked: how strongly is chosen on validation, then tested once, in a folder like a run's."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import EvaluatorType, get_trainer

from recbole_persona.data.training_part import training_matrix
from recbole_persona.errors import UserError
from recbole_persona.evaluate.candidates import scores_of
from recbole_persona.evaluate.collector import Collector
from recbole_persona.evaluate.passes import Pass, passes
from recbole_persona.evaluate.per_user import case_table
from recbole_persona.evaluate.reranking import blended, calibrated, mmr, proportional
from recbole_persona.evaluate.ruler import svd_vectors, tastes
from recbole_persona.progress import progress
from recbole_persona.runner.training import load, protocol
from recbole_persona.runs import RunFolder, commit, config_hash, split_hash, versions

_CELLS = 4_000_000  # numbers held at once: what bounds the memory


class Lists(NamedTuple):
    """A way to re-rank, with what it knows of items and users."""

    order: Callable  # (scores (B, N), *knowledge, weight, k) -> (B, k)
    knowledge: Callable  # (items (B, N), rows (B)) -> arrays
    width: int  # numbers that are known of every candidate


def rerank_run(
    run_dir, method, weights, keep, out_dir, candidates=100, by=None, config_dict=None, all_on_test=False, trust=False
) -> dict:
    """Re-rank the lists of a finished run; the run's own scores, masks and metrics are used.

    What items are and what users like comes from the training interactions (:mod:`recbole_persona.evaluate.ruler`).
    Metrics over labelled scores are left out, since no list changes them.

    Args:
        run_dir: folder of a finished run, of any model that ranks all items.
        method: ``mmr`` (diverse), ``calibrated`` (to the user's tastes), ``personas`` (places in proportion to the
            shares of the model's own personas in the user's training items), or ``model`` (as the run ``by`` sees them).
        weights: strengths between 0 and 1 to choose from; 0, the run as it is, is always among them.
        keep: the largest weight is chosen whose validation ``valid_metric`` is at least ``keep`` (such as 0.99) of that
            of weight 0; None chooses the weight of the best one.
        out_dir: folder for ``config.yaml, ids.json, per_user.csv.gz, result.json``; it has no weights of its own.
        by: folder of another finished run with the same data and split, whose model scores the candidates; a language
            model gives their exact likelihoods.
        candidates: how many of the model's best items of every user are re-ranked; the others stay behind them.
        config_dict: settings to change, such as ``metrics`` or ``eval_batch_size``.
        all_on_test: also test every weight, for pictures; this has no part in the choice.
        trust: as for :func:`recbole_persona.load`, of both runs.

    Returns:
        The content of ``result.json``: that of the run, with ``best_valid`` and ``test`` of the chosen weight and
        ``rerank: {method, weight, keep, candidates, of, frontier: [{weight, valid}]}``; with ``all_on_test`` also
        ``rerank.on_test: {used_to_choose: false, frontier: [{weight, test}]}``.

    Raises:
        UserError: an unknown method, a ``by`` that is missing, not asked for or of another split, a weight, ``keep`` or
            number of candidates that makes no sense, a run that ranks a sample or has no validation part, an
            ``out_dir`` that holds something else.
    """
    weights = _checked_weights(method, weights, keep)
    if (by is None) == (method == "model"):
        raise UserError("by is the folder of the run that re-ranks: it goes with the method model, and with no other.")
    folder = RunFolder(out_dir)
    with folder.lock():
        _check_out(folder, run_dir)
        loaded = load(run_dir, config_dict, trust)
        config = loaded.config
        config["run_dir"] = str(folder.path)
        _check_ranking(loaded, candidates)
        folder.clear()
        start = time.perf_counter()
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, loaded.model)
        trainer.eval_collector.data_collect(loaded.train_data)
        other = None if by is None else _other(loaded, by, trust)
        lists = METHODS[method](loaded, other)

        measured = _measure(trainer, loaded.valid_data, lists, candidates, weights)
        valid = {weight: result for weight, (result, _) in measured.items()}
        chosen = _choose(valid, config, keep)
        tested = _measure(trainer, loaded.test_data, lists, candidates, weights if all_on_test else [chosen])
        test, one = tested[chosen]

        described = {"method": method, "weight": chosen, "keep": keep, "candidates": candidates, "of": str(run_dir)}
        described |= {} if by is None else {"by": str(by)}
        described["frontier"] = [{"weight": weight, "valid": result} for weight, result in valid.items()]
        if all_on_test:
            points = [{"weight": weight, "test": result} for weight, (result, _) in tested.items()]
            described["on_test"] = {"used_to_choose": False, "frontier": points}
        base = RunFolder(run_dir).result()
        folder.begin(config)
        folder.write_ids(loaded.dataset)
        folder.write_per_user(case_table(one))
        result = {
            **base,
            "protocol": protocol(config),
            "seconds": {**base["seconds"], "rerank": round(time.perf_counter() - start, 3)},
            "best_valid_score": valid[chosen][config["valid_metric"].lower()],
            "best_valid": valid[chosen],
            "test": test,
            "config_hash": config_hash(config),
            "versions": versions(),
            "commit": commit(),
            "rerank": described,
        }
        folder.write_result(result)
    return result


def _checked_weights(method, weights, keep) -> list[float]:
    if method not in METHODS:
        raise UserError(f"The method of re-ranking is one of {', '.join(METHODS)}, not {method!r}.")
    if keep is not None and not 0 < keep <= 1:
        raise UserError(f"keep is the share of the metric to be kept, such as 0.99, or None, and is not {keep!r}.")
    weights = sorted({0.0, *map(float, weights)})
    if not all(0 <= weight <= 1 for weight in weights):
        raise UserError(f"Weights of re-ranking lie between 0 and 1; these are {', '.join(map(str, weights))}.")
    return weights


def _check_out(folder, run_dir):
    if folder.path.resolve() == Path(run_dir).resolve():
        raise UserError("Re-ranking needs a folder of its own; name another out_dir than that of the run.")
    # A run that was killed before it had either of these has nothing to lose.
    trained = folder.model_file.exists() or folder.state_file.exists()
    if trained or (folder.complete and "rerank" not in folder.result()):
        raise UserError(f"{folder.path} holds another run; name another out_dir.")


def _check_ranking(loaded, candidates):
    if loaded.config["eval_type"] != EvaluatorType.RANKING:
        raise UserError("Re-ranking changes lists; add a metric of lists, such as NDCG, to metrics.")
    for part in (loaded.valid_data, loaded.test_data):
        if not isinstance(part, FullSortEvalDataLoader):
            raise UserError("Re-ranking needs a ranking of all items; set mode in eval_args to full, and train again.")
        if not len(part):
            raise UserError("Re-ranking needs a validation part and a test part; change split in eval_args.")
    least, most = max(loaded.config["topk"]), loaded.dataset.item_num
    if not least <= candidates:
        raise UserError(f"A list of {least} cannot be chosen from {candidates} candidates; set candidates higher.")
    if most < least:
        raise UserError(f"topk holds {least}, but the data set has only {most - 1} items.")


def _mmr_lists(loaded, _):
    vectors = svd_vectors(training_matrix(loaded.train_data._dataset), loaded.config["split_seed"])
    return Lists(mmr, lambda items, rows: (vectors[items],), vectors.shape[1])


def _calibrated_lists(loaded, _):
    found = tastes(loaded.config, loaded.train_data._dataset)
    uid_field = loaded.dataset.uid_field

    def knowledge(items, rows):
        users = rows[uid_field].cpu().numpy()
        shares = found.items[items.ravel()].toarray().reshape(*items.shape, -1)  # (B, N, C)
        return shares, found.users[users].toarray()

    return Lists(calibrated, knowledge, found.items.shape[1])


def _persona_lists(loaded, _):
    model, device = loaded.model, loaded.config["device"]
    if not hasattr(model, "persona_weights"):
        raise UserError(
            f"Places for personas need a model that has some, such as AMPCF; {loaded.config['model']} has none."
        )

    @torch.no_grad()
    def weights(users, items):
        pairs = (torch.as_tensor(part, device=device).split(_CELLS // 64) for part in (users, items))
        return torch.cat([model.persona_weights(*some).double().cpu() for some in zip(*pairs)]).numpy()  # (pairs, K)

    met = training_matrix(loaded.train_data._dataset)
    lengths = np.diff(met.indptr)
    users = np.repeat(np.arange(met.shape[0]), lengths)
    of_history = weights(users, met.indices.astype(np.int64))
    sums = sp.csr_array((np.ones(len(users)), np.arange(len(users)), met.indptr)) @ of_history  # (n_users, K)
    shares = sums / np.maximum(lengths, 1)[:, None]

    def knowledge(items, rows):
        users = rows[loaded.dataset.uid_field].cpu().numpy()
        return weights(np.repeat(users, items.shape[1]), items.ravel()).reshape(*items.shape, -1), shares[users]

    return Lists(proportional, knowledge, shares.shape[1])


def _other(loaded, by, trust):
    """The run that re-ranks, of the same data and split."""
    other = load(by, {"gpu_id": loaded.config["gpu_id"], "use_gpu": loaded.config["use_gpu"]}, trust)
    for field in (loaded.dataset.uid_field, loaded.dataset.iid_field):
        if not np.array_equal(loaded.dataset.field2id_token[field], other.dataset.field2id_token[field]):
            raise UserError(f"The run in {by} is of other users or items than the one that it should re-rank.")
    parts = (loaded.train_data, loaded.valid_data, loaded.test_data)
    if RunFolder(by).result()["split_hash"] != split_hash([part._dataset for part in parts]):
        raise UserError(f"The run in {by} is of another split than the one that it should re-rank.")
    return other


def _model_lists(loaded, other):
    def knowledge(items, rows):
        items = torch.as_tensor(items, device=rows[loaded.dataset.uid_field].device)
        return (scores_of(other.model, rows, items).double().cpu().numpy(),)

    return Lists(blended, knowledge, 1)


METHODS = {"mmr": _mmr_lists, "calibrated": _calibrated_lists, "personas": _persona_lists, "model": _model_lists}


@torch.no_grad()
def _measure(trainer, loader, lists, candidates, weights) -> dict:
    """Every batch is scored once, and re-ranked and collected for each weight: ``{weight: (result, its Pass)}``."""
    dataset = loader._dataset
    ranking = passes(Pass(trainer.config, trainer.eval_collector, trainer.evaluator, loader))[0]
    parts = {weight: replace(ranking, collector=_another(ranking.collector)) for weight in weights}
    trainer.tot_item_num, trainer.item_tensor = dataset.item_num, dataset.get_item_feature().to(trainer.device)
    trainer.model.eval()
    for batch in progress(loader, desc="re-ranking", unit="batch"):
        rows, scores, positive_u, positive_i = trainer._full_sort_batch_eval(batch)
        best = scores.topk(min(candidates, scores.shape[1]))
        orders = _orders(best, rows, lists, weights, max(trainer.config["topk"]))
        for weight, one in parts.items():
            ranked = _with_lists(scores, best.indices, orders[weight]) if weight else scores
            one.collector.eval_batch_collect(ranked, rows, positive_u, positive_i)
    measured = {}
    for weight, one in parts.items():
        one.collector.model_collect(trainer.model)
        result = one.evaluator.evaluate(one.collector.get_data_struct())
        measured[weight] = {key: float(value) for key, value in result.items()}, one
    return measured


def _another(collector):
    """A collector that has gathered nothing but what came from the training data."""
    other = Collector(collector.config)
    other.data_struct._data_dict = collector.data_struct._data_dict
    other.item_features = collector.item_features
    return other


def _orders(best, rows, lists, weights, k) -> dict:
    """The re-ranked lists by weight: (B, k), which of the candidates stands at which place.

    Args:
        best: values and items (B, N) of the candidates, falling.
        rows: (B), those of the loader.
    """
    values, items = (part.cpu().numpy() for part in best)
    orders = {weight: np.empty((len(items), k), dtype=np.int64) for weight in weights}
    step = max(1, _CELLS // (items.shape[1] * lists.width))
    for start in range(0, len(items), step):
        part = slice(start, start + step)
        known = lists.knowledge(items[part], rows[part])
        for weight, order in orders.items():
            order[part] = lists.order(values[part], *known, weight, k)
    return orders


def _with_lists(scores, candidates, order):
    """Scores (B, n_items) whose best items are the lists, in their order; the other items keep theirs.

    What must not be recommended has the score -inf and keeps it.

    Args:
        scores: (B, n_items).
        candidates: (B, N) items.
        order: (B, k), which candidate stands at which place.
    """
    chosen = candidates.gather(1, torch.as_tensor(order, device=scores.device))  # (B, k)
    ranked = scores.to(torch.float64, copy=True)  # float32 has no room above large scores
    own, top = ranked.gather(1, chosen), ranked.max(1, keepdim=True).values
    places = torch.arange(order.shape[1], 0, -1, device=scores.device)
    return ranked.scatter_(1, chosen, torch.where(own == -torch.inf, own, top + places))


def _choose(valid, config, keep) -> float:
    """The weight to test, from the validation results by rising weight."""
    metric, bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
    if metric not in valid[0.0]:
        raise UserError(
            f"Re-ranking is chosen by {metric}, which is not among the metrics over lists that are measured; "
            "set valid_metric to one of them."
        )
    score = {weight: result[metric] for weight, result in valid.items()}
    if keep is None:
        return max(score, key=lambda weight: score[weight] if bigger else -score[weight])  # the first of equal ones
    limit = keep * score[0.0] if bigger else score[0.0] / keep
    return max(weight for weight, value in score.items() if (value >= limit if bigger else value <= limit))
