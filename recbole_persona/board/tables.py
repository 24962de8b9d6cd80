"""From finished cells to rows: what ``<page>.json`` holds, and all that a page needs to be printed."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
from recbole.evaluator import smaller_metrics
from scipy import stats

from recbole_persona.board.cells import Cell
from recbole_persona.board.comparisons import add_statistics
from recbole_persona.board.groups import groups
from recbole_persona.board.per_user import Values
from recbole_persona.board.protocol import compare_protocols
from recbole_persona.board.published import read_published
from recbole_persona.board.specification import Board, Part, Row
from recbole_persona.errors import UserError
from recbole_persona.evaluate.significance import (
    CORPUS,
    Comparison,
    average_seeds,
    check_users,
    compare_metrics,
    values_by_user,
)
from recbole_persona.progress import progress
from recbole_persona.runs import RunFolder


class Finished:
    """The finished runs of one row on one data set, in the order of the seeds."""

    def __init__(self, cells: list[Cell]):
        self.seeds = [cell.seed for cell in cells]
        self.trained = [cell.base or cell.path for cell in cells]
        self.named = cells[0].named
        self.results, self.tables = [], []
        for cell in cells:
            folder = RunFolder(cell.path)
            try:
                self.results.append(folder.result())
                self.tables.append(folder.per_user())
            except UserError as error:
                raise UserError(
                    f"{str(error).rstrip('.')}; delete {cell.path} and start again to repeat that cell."
                ) from error

    def values(self, metric) -> list[float]:
        """The metric, seed by seed, unrounded where it is a mean over users."""
        if metric.partition("@")[0] in CORPUS or any(metric not in table for table in self.tables):
            return [result["test"][metric] for result in self.results]
        return [float(table[metric].mean()) for table in self.tables]

    def values_by_user(self, metric) -> pd.DataFrame | None:
        """The metric (users, seeds), by the sorted ids of users; None for one that is no mean over users."""
        if metric.partition("@")[0] in CORPUS or any(metric not in table for table in self.tables):
            return None
        return values_by_user(self.tables, metric).set_axis(self.seeds, axis=1).sort_index()


def board_rows(board: Board, cells: list[Cell], resolved: dict, searched: dict) -> tuple[list[dict], Values]:
    """All rows of a board, data set by data set, the best first; and the values of single users.

    Args:
        cells: every cell, run or failed.
        resolved: by data set and row, the row with the settings that it ran with.
        searched: by data set and row, what the search of a tuned row was (see :mod:`recbole_persona.board.studies`).

    Returns:
        What ``<page>.json`` holds, and the primary metric by data set and row, users by the order of their ids.

    Raises:
        UserError: a run folder that is not whole, or rows of different protocols or splits.
    """
    rows, values = [], {}
    for part in board.parts:
        here = [cell for cell in cells if cell.dataset == part.dataset]
        found, of_users = _part_rows(board, part, here, resolved, searched)
        rows += found
        values |= {(part.dataset, name): frame for name, frame in of_users.items()}
    return rows, values


def _part_rows(board, part, cells, resolved, searched) -> tuple[list[dict], dict[str, pd.DataFrame]]:
    finished = {}
    for row in part.rows:
        done = [cell for cell in cells if cell.row == row.name and cell.done]
        if done:
            finished[row.name] = Finished(done)
    _check_protocols(part, finished)
    metrics = list(next(iter(finished.values())).results[0]["test"]) if finished else []
    rows = {}
    for row in part.rows:
        known = resolved.get((part.dataset, row.name), row)
        rows[row.name] = _row(board, part, known, finished.get(row.name), metrics)
        rows[row.name] |= _failures([cell for cell in cells if cell.row == row.name], row.name in finished)
        if search := searched.get((part.dataset, row.name)):
            _add_search(rows[row.name], search)
    _rank(rows, board.primary)
    _compare_all(board, part, rows, finished, metrics)
    _compare_best(board, rows, finished)
    _add_groups(board, part, rows, finished, metrics)
    add_statistics(list(rows.values()))
    ranked = sorted(rows.values(), key=lambda row: row.get("rank") or len(rows) + 1)
    return ranked, _values_of_users(finished, board.primary)


def _values_of_users(finished, metric) -> dict[str, pd.DataFrame]:
    """The values of each row (users, seeds), with the users as row numbers: the same in all rows, or UserError."""
    values = {name: done.values_by_user(metric) for name, done in finished.items()}
    values = {name: frame for name, frame in values.items() if frame is not None}
    for frame in values.values():
        check_users(frame.index, next(iter(values.values())).index)
    return {name: frame.reset_index(drop=True) for name, frame in values.items()}


def _check_protocols(part, finished):
    protocols = {}
    for name, row in finished.items():
        for seed, result in zip(row.seeds, row.results):
            label = name if len(row.seeds) == 1 else f"{name}, seed {seed}"
            protocols[label] = result["protocol"] | {"split_hash": result["split_hash"]}
    if protocols:
        compare_protocols(part.dataset, protocols)


def _row(board: Board, part: Part, row: Row, done: Finished | None, metrics) -> dict:
    described = {
        "name": row.name,
        "model": row.model,
        "dataset": part.dataset,
        "protocol": {},
        "split_seed": None,
        "seeds": done.seeds if done else [],
        "budget": {},
        "config": row.config | ({"config_files": [file.name for file in row.files]} if row.files else {}),
        "metrics": {},
        "status": "run" if done else "not run",
    }
    if row.rerank:
        described["rerank"] = row.rerank
    if row.published:
        return described | read_published(row, part.dataset, len(board.parts) > 1) | {"status": "published"}
    if done is None:
        return described
    first = done.results[0]
    described["model"] = first["model"]
    described["protocol"] = first["protocol"]
    described["split_seed"] = first["split_seed"]
    described["split_hash"] = first["split_hash"]
    described["statistics"] = first.get("statistics", {})
    metrics = [metric for metric in metrics if metric in first["test"]]  # no list changes a value metric
    described["metrics"] = {metric: _spread(metric, done.values(metric)) for metric in metrics}
    described["cost"] = _cost(done)
    if part.again is None:
        valid = [metric for metric in first["best_valid"] if metric in metrics]
        described["valid"] = {m: _number(np.mean([result["best_valid"][m] for result in done.results])) for m in valid}
        described["curves"] = [_curve(result) for result in done.results]
    seconds = [result["seconds"] for result in done.results]
    spent = sum(sum(one.values()) if part.again is None else one["evaluate"] for one in seconds)
    described["budget"] = {
        "minutes": round(spent / 60, 3),
        "epochs": sum(result["epochs"] for result in done.results),
    }
    if row.rerank:
        _add_reranking(described, done)
    described["versions"] = first["versions"]
    described["commit"] = first["commit"]
    return described


def _spread(metric, values) -> dict:
    """Mean and standard deviation (n - 1) over seeds; says so where less is better."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    described = {
        "mean": _number(np.mean(values)),
        "std": _number(std),
        "n": len(values),
        "values": [_number(value) for value in values],
    }
    return described | ({"smaller_is_better": True} if metric.partition("@")[0] in smaller_metrics else {})


def _cost(done) -> dict:
    """Means over seeds; of the memory the median, since the first run of a process carries what libraries load."""
    first, seconds = done.results[0], [result["seconds"] for result in done.results]
    users = np.mean([table["user"].nunique() for table in done.tables])
    return {
        "devices": sorted({result["device"] for result in done.results if "device" in result}),
        "train_seconds": round(float(np.mean([each["train"] for each in seconds])), 3),
        "evaluate_ms_per_user": round(float(np.mean([each["evaluate"] for each in seconds]) / max(users, 1) * 1000), 4),
        "epochs": float(np.mean([result["epochs"] for result in done.results])),
        "steps": _number(np.mean([result.get("steps", math.nan) for result in done.results])),
        "n_parameters": first["n_parameters"],
        "peak_mib": float(np.median([result["memory"]["peak_mib"] for result in done.results])),
    }


def _curve(result) -> list[list[float]]:
    """Minutes of training, and the validation score, of every validation that gave a number."""
    found = result.get("validations", [])
    return [[round(seconds / 60, 3), score] for _, seconds, score in found if math.isfinite(score)]


def _add_reranking(described, done):
    """The weights that validation chose, seed by seed; what every weight reaches on the test; the cost beside the run's."""
    chosen = [result["rerank"]["weight"] for result in done.results]
    described["rerank"] = described["rerank"] | {"chosen": chosen}
    seconds = sum(result["seconds"]["rerank"] for result in done.results)
    described["budget"] = {"minutes": round(seconds / 60, 3)}
    points = {}
    for result in done.results:
        for point in result["rerank"].get("on_test", {}).get("frontier", []):
            points.setdefault(point["weight"], []).append(point["test"])
    described["frontier"] = [
        {"weight": weight, "metrics": {m: _number(np.mean([test[m] for test in tests])) for m in tests[0]}}
        for weight, tests in sorted(points.items())
    ]


def _failures(cells, some_done) -> dict:
    failed = [{"seed": cell.seed, "reason": cell.reason} for cell in cells if cell.reason is not None]
    if not failed:
        return {}
    return {"failed": failed} | ({} if some_done else {"status": "failed"})


def _add_search(row, search):
    if "failed" in search:
        row |= {"status": "failed", "failed": [{"seed": None, "reason": search["failed"]}]}
        return
    row |= {key: search[key] for key in ("tuned", "selection") if key in search}
    row["budget"] = {**search["budget"], **row["budget"]}
    row["budget"]["minutes"] = round(row["budget"].get("minutes", 0) + search["budget"]["search_minutes"], 3)


def _rank(rows, primary):
    """Ranks 1, 2, … by the primary metric of the rows that ran; equal means share a rank."""
    means = {name: _gain(row, primary) for name, row in rows.items() if row["status"] == "run"}
    for name, mean in means.items():
        rows[name]["rank"] = 1 + sum(other > mean for other in means.values())


def _gain(row, metric) -> float:
    """The mean, such that more is better."""
    value = row["metrics"][metric]
    mean = -math.inf if value["mean"] is None else value["mean"]
    return -mean if value.get("smaller_is_better") else mean


def _compare_all(board, part, rows, finished, metrics):
    """Every row against what it is tested against: the difference, and its standard error over users."""
    against = {row.name: row.against or board.baseline for row in part.rows if row.name in finished}
    against = {name: base for name, base in against.items() if base in finished and base != name}
    for name in progress(against, desc=f"comparisons on {part.dataset}", unit="row"):
        found = _comparisons(metrics, finished[name], finished[against[name]])
        described = {m: plain_comparison(found[m]) | {"against": against[name]} for m in metrics if m in found}
        if described:
            rows[name]["comparisons"] = described


def _compare_best(board, rows, finished):
    """The best row against the second; chosen by the numbers that are tested, so this p stands for itself."""
    ranked = sorted((row for row in rows.values() if "rank" in row), key=lambda row: row["rank"])
    if len(ranked) > 1:
        best, second = ranked[:2]
        found = _comparisons([board.primary], finished[best["name"]], finished[second["name"]])
        if found:
            best["best_against_second"] = {
                "metric": board.primary,
                "against": second["name"],
                **plain_comparison(found[board.primary]),
            }


def _comparisons(metrics, ours, base) -> dict[str, Comparison]:
    """By metric; without those of which no sums over users are kept: AUC, value metrics of a re-ranked run."""
    corpus = [
        metric
        for metric in metrics
        if metric.partition("@")[0] in CORPUS and all(metric in done.results[0]["test"] for done in (ours, base))
    ]
    tables = (*ours.tables, *base.tables)
    means = [metric for metric in metrics if metric not in corpus and all(metric in table for table in tables)]
    items = ours.results[0]["statistics"]["items"] + 1 if corpus else None
    return compare_metrics(ours.tables, base.tables, means, corpus, items, "t")


def plain_comparison(comparison: Comparison) -> dict:
    """A comparison as the JSON holds it."""
    return {
        key: value if isinstance(value, (int, str)) else _number(value) for key, value in asdict(comparison).items()
    }


def _add_groups(board, part, rows, finished, metrics):
    """Means of groups of users, and their differences to the row that is the baseline."""
    if not board.splits or not finished:
        return
    own = {row.name: row.against or board.baseline for row in part.rows}
    metrics = [m for m in metrics if all(m in table for row in finished.values() for table in row.tables)]
    # A group's GAUC counts its users alike; the other metrics of a whole are no means of users' values.
    metrics = [metric for metric in metrics if metric == "gauc" or metric.partition("@")[0] not in CORPUS]
    if not metrics:
        return
    values = {name: average_seeds(row.tables, metrics) for name, row in finished.items()}  # tables (users, metrics)
    users = next(iter(values.values())).index
    first = next(iter(finished.values()))
    for quantity, members in groups(board, first.trained[0], users, first.named).items():
        for name in finished:
            base = own[name] if own[name] in finished and own[name] != name else None
            described = []
            for label, chosen in members:
                means = {}
                for metric in metrics:
                    ours = values[name][metric][chosen]
                    means[metric] = {"mean": _number(ours.mean())}
                    if base:
                        means[metric] |= _paired_interval(values[base][metric][chosen], ours)
                described.append({"group": label, "n": len(chosen), "metrics": means})
            rows[name].setdefault("splits", {})[quantity] = described


def _paired_interval(base, ours) -> dict:
    """Mean difference and its 95 % interval by Student's t: cheap, as there are many groups."""
    known = base.notna() & ours.notna()
    span = stats.ttest_rel(ours[known], base[known]).confidence_interval(0.95) if known.sum() > 1 else (None, None)
    return {
        "difference": _number((ours - base).mean()),
        "low": _number(span[0]),
        "high": _number(span[1]),
        "se": _number((ours - base).sem()),
    }


def _number(value) -> float | None:
    """A number for JSON, which knows no NaN and no infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
