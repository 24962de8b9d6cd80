"""``leaderboard``: from ``board.yaml`` to a page, by way of the runs that it needs."""

import json
from pathlib import Path

from recbole_persona.board.cells import Cell, plan, reset
from recbole_persona.board.comparisons import add_statistics
from recbole_persona.board.groups import check_splits
from recbole_persona.board.page import latex, markdown, table
from recbole_persona.board.per_user import SUFFIX, read_values, row_key, write_values
from recbole_persona.board.picture import draw
from recbole_persona.board.protocol import check_configs, row_config
from recbole_persona.board.published import read_published
from recbole_persona.board.replaced import only, put_in
from recbole_persona.board.specification import Board, Part, Row, read_board
from recbole_persona.board.studies import check_search, opened, searched
from recbole_persona.board.tables import board_rows
from recbole_persona.board.workers import join, run_open
from recbole_persona.errors import Busy, StorageError, UserError
from recbole_persona.runner.reranked import METHODS
from recbole_persona.runner.shared_data import sharing_data
from recbole_persona.runs import read_json
from recbole_persona.upstream.files import write_text


def leaderboard(board, *, workers=1, rerun=False, print_only=False, rows=None, runs=None, out=None) -> dict:
    """Run what a board still lacks, and print its page.

    Args:
        board: path of ``board.yaml``; ``docs/leaderboard.md`` says what stands in it.
        workers: processes that run cells.
        rerun: ``True`` or ``"all"`` runs every cell again (searches are kept), ``"failed"`` those that failed.
        rows: names of rows; only these and the rows that they re-rank run, and are replaced in the JSON beside the board.
        print_only: recompute the statistics of the JSON and print the page again; nothing runs.
        runs: folder of the run folders; default ``runs/<name of the board>``.
        out: folder of the page; default that of the board.

    Returns:
        ``rows`` (what the JSON holds), ``files`` (paths of the page's files) and ``failed`` (the number of failed cells).

    Raises:
        UserError: whatever the user can mend; before anything runs where that can be known then.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same call goes on.
    """
    if type(workers) is not int or workers < 1:
        raise UserError(f"workers must be a whole number of at least 1; it is {workers!r}.")
    described = read_board(board)
    target = Path(out) if out else described.file.parent
    if print_only:
        if rows is not None:
            raise UserError("A page that is only printed runs no rows; leave out --row or --print.")
        return _written(described, _read_rows(target / f"{described.name}.json"), target)
    if rows is not None and workers > 1:
        raise UserError("Single rows run in one process; leave workers out.")
    if rerun not in (False, True, "all", "failed"):
        raise UserError(f"rerun is all or failed, not {rerun!r}.")
    runs = Path(runs) if runs else Path("runs") / described.name
    asked = described if rows is None else only(described, rows)
    old, kept = [], {}
    if rows is not None:
        old = _read_rows(target / f"{described.name}.json")
        kept = read_values(_per_user_file(described, target), old, described.primary)
    try:
        cells, resolved, told = prepare(asked, runs, workers)
        if rerun:
            reset(cells, "failed" if rerun == "failed" else "all")
        run_open(cells, described.file, runs, workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what is finished is kept, and the same command goes on.") from None
    found, values = board_rows(asked, cells, resolved, told)
    if rows is not None:
        fresh = {row_key(row) for row in found}
        values = {key: frame for key, frame in kept.items() if key not in fresh} | values
        found = put_in(described, old, found, values)
    return _written(described, found, target, values)


def prepare(board: Board, runs: Path, workers: int | None) -> tuple[list[Cell], dict, dict]:
    """Check a board whole, search for the settings of its tuned rows, and list its cells.

    Args:
        workers: processes of a search; None for a worker of the board, which finds all searches finished.

    Returns:
        The cells; by data set and row, the rows with the settings that they run with; and what is told of their searches
        (None for rows without one).
    """
    check(board)
    with sharing_data():
        resolved, told = _resolved(board, runs, workers)
    return plan(board, runs, resolved), resolved, told


def _resolved(board, runs, workers) -> tuple[dict, dict]:
    """The rows with their settings, and what is told of their searches."""
    resolved, told = {}, {}
    for part in board.parts:
        for row in part.rows:
            if row.kind in ("model", "study") and row.runs:
                key = part.dataset, row.name
                if part.again is not None:
                    trained = part.source, row.name
                    resolved |= {key: resolved[trained]} if trained in resolved else {}
                    told[key] = told[trained]
                    continue
                try:
                    resolved[key], told[key] = searched(board, part, row, runs, workers)
                except (Busy, StorageError):
                    raise
                except UserError as error:  # this row's affair: the board goes on without it
                    told[key] = {"failed": str(error)}
    return resolved, told


def check(board: Board) -> None:
    """Refuse, before anything runs, what cannot work or would compare what cannot be compared."""
    check_splits(board)
    for part in board.parts:
        configs = {}
        for row in part.rows:
            if row.published:
                read_published(row, part.dataset, len(board.parts) > 1)
            if row.model or (row.study and row.runs):
                configs[row.name] = row_config(board, part, _with_model(part, row))
            if row.rerank and row.rerank["method"] not in METHODS:
                raise UserError(
                    f"Row {row.name!r}: the method is one of {', '.join(METHODS)}, not {row.rerank['method']!r}."
                )
            if row.tune and row.runs and part.again is None:
                check_search(board, part, row)
        if configs:
            check_configs(board, part, configs)


def _with_model(part: Part, row: Row) -> Row:
    return opened(part, row) if row.study else row


def work_for(board_file, runs, parent: int) -> None:
    """Be one worker of the board that the process ``parent`` runs."""
    cells, _, _ = prepare(read_board(board_file), Path(runs), None)
    join(cells, parent)


def write_page(board: Board, rows: list[dict], target: Path) -> list[str]:
    """Print the rows as every form of the page; returns the paths."""
    forms = {".md": markdown(board, rows), ".tex": latex(board, rows), ".csv": table(board, rows)}
    if board.pictures:
        forms[".svg"] = draw(board, rows)
    for suffix, text in forms.items():
        write_text(target / f"{board.name}{suffix}", text)
    suffixes = [".json", *forms, *([SUFFIX] if any("per_user" in row for row in rows) else [])]
    return [str(target / f"{board.name}{suffix}") for suffix in suffixes]


def _written(board, rows, target, values=None) -> dict:
    """Write JSON and page, with recomputed statistics; and the values of users, unless the page is only printed."""
    add_statistics(rows)
    if values is not None:
        write_values(_per_user_file(board, target), rows, values, board.primary)
    write_text(target / f"{board.name}.json", json.dumps(rows, indent=1) + "\n")
    return {"rows": rows, "files": write_page(board, rows, target), "failed": _failed(rows)}


def _per_user_file(board, target) -> Path:
    return target / f"{board.name}{SUFFIX}"


def _read_rows(file) -> list[dict]:
    rows = read_json(file)
    needed = {"name", "dataset", "status", "metrics", "seeds", "config", "budget"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise UserError(f"{file} does not hold the rows of a board; run the board to write it anew.")
    return rows


def _failed(rows) -> int:
    return sum(len(row.get("failed", [])) for row in rows)
