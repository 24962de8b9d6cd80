"""Somebody else's numbers, from a CSV file: shown as published, never tested."""

import csv
import math

from recbole.evaluator import metric_types, smaller_metrics

from recbole_persona.board.specification import Row
from recbole_persona.errors import UserError


def read_published(row: Row, dataset: str, several: bool) -> dict:
    """The metrics of a published row.

    The file has a column for each metric, or the columns ``metric`` and ``value``; ``name`` and ``dataset`` pick the
    lines, ``source`` says where they were published.

    Args:
        several: the board has several data sets, so the file must say which one a line is of.

    Returns:
        ``{"metrics": {metric: {"mean", "std": None, "n": None}}, "source": text}``.

    Raises:
        UserError: no such file, no line for this row, or a value that is no number.
    """
    lines = _lines(row.published)
    if several and "dataset" not in lines[0][1]:
        raise UserError(f"{row.published} needs a column dataset: the board has several.")
    picked = [(number, line) for number, line in lines if line.get("name", row.name) == row.name]
    picked = [(number, line) for number, line in picked if line.get("dataset", dataset) == dataset]
    if not picked:
        raise UserError(f"{row.published} has no line for {row.name!r} on {dataset}.")
    metrics = {}
    for number, line in picked:
        named = {line["metric"]: line["value"]} if {"metric", "value"} <= line.keys() else line
        for metric, text in named.items():
            if metric.partition("@")[0].lower() in metric_types and text:
                metrics[metric.lower()] = _value(metric.lower(), text, f"{row.published}, line {number}")
    if not metrics:
        raise UserError(f"{row.published} names no metric of {row.name!r}, such as ndcg@10.")
    sources = dict.fromkeys(line["source"] for _, line in picked if line.get("source"))
    return {"metrics": metrics, "source": "; ".join(sources)}


def _value(metric, text, where) -> dict:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {text!r} is no number.")
    described = {"mean": value, "std": None, "n": None}
    return described | ({"smaller_is_better": True} if metric.partition("@")[0] in smaller_metrics else {})


def _lines(file) -> list[tuple[int, dict]]:
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            names = [(name or "").strip() for name in reader.fieldnames or []]
            lines = []
            for values in reader:
                if None in values or None in values.values():
                    raise UserError(f"{file}, line {reader.line_num}, has not as many fields as the first line.")
                lines.append((reader.line_num, dict(zip(names, (value.strip() for value in values.values())))))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no file of published numbers {file}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8.") from None
    if not lines:
        raise UserError(f"{file} holds no numbers; its first line names the columns.")
    return lines
