"""Tuned rows: the search for their settings, and what the page says of it."""

import re
from dataclasses import replace
from pathlib import Path

from recbole_persona.board.protocol import row_config, shared_settings
from recbole_persona.board.specification import Board, Part, Row
from recbole_persona.config import read_yaml
from recbole_persona.errors import UserError
from recbole_persona.runner import preflight
from recbole_persona.runs import read_json
from recbole_persona.search.space_files import read_space
from recbole_persona.search.tuning import tune
from recbole_persona.trust import refuse_foreign

_PASSED = (
    "trials",
    "sampler",
    "pruner",
    "timeout",
    "select_seeds",
    "finalists",
)  # keys of tune that the search takes as they are


def check_search(board: Board, part: Part, row: Row) -> None:
    """Refuse a search that could not begin: no validation part, a space with a mistake, an unknown setting."""
    try:
        config = row_config(board, part, row)
        preflight.check_search(config)
        read_space(row.tune["space"], row.model).defaults(config)
    except UserError as error:
        raise UserError(f"Row {row.name!r} on {part.dataset}: {error}") from error


def opened(part: Part, row: Row) -> Row:
    """A row of a finished search with its best settings.

    Raises:
        UserError: the folder holds no finished search for one objective, or a model that is not installed here.
    """
    answer = _answer(row)
    if not answer["best_config"]:
        raise UserError(
            f"Row {row.name!r}: {row.study} has several objectives; name the file of one point as config_files."
        )
    best = row.study / Path(answer["best_config"]).name
    settings = read_yaml(best)
    name = f"name it in the row: model: {settings.get('model')}, config_files: [{best}]"
    refuse_foreign(best, settings, row.config, name)
    return replace(row, model=settings.get("model"), files=(best,))


def searched(board: Board, part: Part, row: Row, runs: Path, workers: int | None) -> tuple[Row, dict | None]:
    """A row with the settings it runs with, and what the page says of the search; None for a row without one.

    The search uses only the validation set. It is made with the row's first seed and with only the primary metric, so
    that another metric on the page needs no new search. One that was killed goes on.

    Args:
        workers: processes of the search; None only reads what a search has found.
    """
    folder = study_dir(runs, part, row)
    if row.study:
        return opened(part, row), _told(_answer(row))
    if not row.tune:
        return row, None
    if workers is None:
        answer = read_json(folder / "study.json")
        return replace(row, config={**row.config, **answer["best_params"]}), _told(answer)
    metric, _, k = board.primary.partition("@")
    settings = {**row.config, **shared_settings(board, part), "seed": part.seeds_of(row)[0], "metrics": [metric]}
    settings |= ({"topk": [int(k)]} if k else {}) | {key: row.tune[key] for key in ("epochs",) if key in row.tune}
    options = {key: row.tune[key] for key in _PASSED if key in row.tune}
    answer = tune(
        row.model,
        part.dataset,
        [str(file) for file in row.files],
        settings,
        space=row.tune["space"],
        study_dir=folder,
        study_name=folder.name,
        workers=workers,
        seeds=[],
        resume=True,
        **options,
    )
    return replace(row, config={**row.config, **answer["best_params"]}), _told(answer)


def study_dir(runs: Path, part: Part, row: Row) -> Path:
    """``<runs>/studies/<data set>-<row>``."""
    return runs / "studies" / re.sub(r"[^\w.@=+-]+", "-", f"{part.dataset}-{row.name}")


def _answer(row) -> dict:
    if not (row.study / "study.json").is_file():
        raise UserError(f"Row {row.name!r}: {row.study} is not the folder of a finished search; it has no study.json.")
    return read_json(row.study / "study.json")


def _told(answer) -> dict:
    best, budget, edges = answer["best_params"], answer["budget"], answer.get("edges", {})
    tuned = {name: {"best": best.get(name, "not used"), "range": text} for name, text in answer["space"].items()}
    for name, end in edges.items():
        tuned[name]["edge"] = end
    return {
        "tuned": tuned,
        **({"selection": answer["selection"]} if answer.get("selection") else {}),
        "budget": {key: budget[key] for key in ("trials", "pruned", "failed")}
        | {"search_epochs": budget["epochs"], "search_minutes": round(budget["seconds"] / 60, 3)},
    }
