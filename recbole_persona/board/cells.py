"""The cells of a board: one run folder for each row, data set and seed. Which there are, and running those that are open."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from recbole_persona.board.protocol import row_config, shared_settings
from recbole_persona.board.specification import Board, Row
from recbole_persona.errors import Busy, StorageError, UserError, one_sentence
from recbole_persona.runner import run
from recbole_persona.runner.reevaluated import reevaluate_run
from recbole_persona.runner.reranked import rerank_run
from recbole_persona.runner.shared_data import sharing_data
from recbole_persona.runs import RunFolder, default_path, read_json
from recbole_persona.search.trial import begun_before
from recbole_persona.trust import KEYS
from recbole_persona.upstream.files import write_text

WAIT = 1.0  # seconds between looks at cells that other processes hold


@dataclass(frozen=True)
class Cell:
    """One run of a board.

    Attributes:
        path: its run folder. Rows with equal settings share it.
        settings: of the run, of the re-ranking, or those that a test by other rules changes.
        base: folder of the run that is re-ranked or tested again; None for a run.
        named: settings of its rows that run code: where the folder of a run has them, too, they are the board's own.
    """

    dataset: str
    row: str
    seed: int
    path: Path
    model: str | None = None
    files: tuple[str, ...] = ()
    settings: dict = field(default_factory=dict)
    base: Path | None = None
    named: dict = field(default_factory=dict)

    @property
    def failed_file(self) -> Path:
        return self.path / "failed.json"

    @property
    def done(self) -> bool:
        folder = RunFolder(self.path)
        return folder.complete and folder.started and folder.per_user_file.is_file()

    @property
    def reason(self) -> str | None:
        """Why the cell failed; None for one that did not."""
        return read_json(self.failed_file)["reason"] if not self.done and self.failed_file.is_file() else None

    @property
    def open(self) -> bool:
        return not self.done and not self.failed_file.is_file()

    def __str__(self):
        return f"{self.row} on {self.dataset}, seed {self.seed}"


def plan(board: Board, runs: Path, resolved: dict[tuple[str, str], Row]) -> list[Cell]:
    """The cells, in the order in which they run; none for a row whose search failed, and those that re-rank it.

    Args:
        runs: folder of all run folders.
        resolved: by data set and row, the rows of models with the settings they run with, tuned or not.
    """
    cells = []
    for part in board.parts:
        if part.again is not None:
            cells += [
                _tested_again(part, cell) for cell in cells if cell.dataset == part.source and _stands_in(part, cell)
            ]
            continue
        of_row = {}
        for row in part.rows:
            if (part.dataset, row.name) not in resolved:
                continue  # published, re-ranked, not run, or its search failed
            row = resolved[part.dataset, row.name]
            config = row_config(board, part, row)
            files = tuple(str(file) for file in row.files)
            named = {key: config[key] for key in KEYS if config[key]}
            for seed in part.seeds_of(row):
                config["seed"] = seed
                path = runs / default_path(config).name
                settings = {**row.config, **shared_settings(board, part), "seed": seed, "run_dir": str(path)}
                cell = Cell(part.dataset, row.name, seed, path, row.model, files, settings, named=named)
                of_row[row.name, seed] = cell
        cells += of_row.values()
        for row in part.rows:
            for seed in part.seeds_of(row) if row.runs and row.rerank else ():
                needed = {key: of_row.get((name, seed)) for key, name in row.needs.items()}
                if all(needed.values()):
                    cells.append(_reranked(board, row, **needed))
    return cells


def _stands_in(part, cell) -> bool:
    return cell.base is None and any(row.name == cell.row and cell.seed in part.seeds_of(row) for row in part.rows)


def _tested_again(part, base) -> Cell:
    path = base.path.with_name(f"{base.path.name}-again-{_digest(part.again)}")
    return Cell(part.dataset, base.row, base.seed, path, settings=part.again, base=base.path, named=base.named)


def _digest(settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _reranked(board, row, of, by=None) -> Cell:
    settings = {key: value for key, value in row.rerank.items() if key != "of"}
    settings |= {"by": str(by.path)} if by else {}
    settings["all_on_test"] = any(picture["kind"] == "frontier" for picture in board.pictures)
    path = of.path.with_name(f"{of.path.name}-{settings['method']}-{_digest(settings)}")
    named = of.named | (by.named if by else {})
    return Cell(of.dataset, row.name, of.seed, path, settings=settings, base=of.path, named=named)


def reset(cells: list[Cell], which: str) -> None:
    """Forget what was reached, so that it is run again: of ``all`` cells, or of those that ``failed``."""
    for cell in cells:
        if cell.path.is_dir() and (which == "all" or cell.reason is not None):
            with RunFolder(cell.path).lock() as folder:
                cell.failed_file.unlink(missing_ok=True)
                folder.result_file.unlink(missing_ok=True)
                if folder.started:
                    folder.clear()


def work(cells: list[Cell], told: Callable = lambda cell: None, stopped: Callable = lambda: False) -> None:
    """Run what is open until nothing is; cells that other processes hold are waited for. Cells with equal data share them.

    Args:
        told: called with every cell that this process has run.
        stopped: asked before every cell.

    Raises:
        StorageError: a file could not be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. What is finished stays, what had begun is continued another time.
    """
    with sharing_data():
        while waiting := [cell for cell in cells if cell.open]:
            rested = True
            for cell in waiting:
                if stopped():
                    return
                if cell.open and _ready(cell, cells) and _attempt(cell):
                    told(cell)
                    rested = False
            if rested:
                time.sleep(WAIT)


def _ready(cell, cells) -> bool:
    """Whether what the cell builds on is there; a cell whose base failed has failed, too."""
    paths = {str(cell.base), cell.settings.get("by")}
    needed = [other for other in cells if cell.base is not None and str(other.path) in paths]
    for base in needed:
        if base.reason is not None:
            _fail(cell, f"{base.row} failed: {base.reason}")
        if base.done and not loadable(base.path):
            _attempt(base)
    return all(base.done and loadable(base.path) for base in needed)


def loadable(path) -> bool:
    """Whether the run of a done cell can be loaded. The page needs its numbers alone; re-ranking it needs more."""
    folder = RunFolder(path)
    return folder.run_file.is_file() and folder.model_file.is_file()


def _attempt(cell) -> bool:
    """Run a cell; false when another process is at it. A cell that fails keeps the reason, and the board goes on."""
    try:
        run_cell(cell)
    except Busy:
        return False
    except StorageError:
        raise
    except Exception as error:
        _fail(cell, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_sentence(error)}")
    return True


def _fail(cell, reason):
    reason = reason.replace(f"{cell.path}{os.sep}", "")  # the page is read where there is no such folder
    write_text(cell.failed_file, json.dumps({"row": cell.row, "seed": cell.seed, "reason": reason}, indent=1))


def run_cell(cell: Cell) -> None:
    """Run one cell, from where an earlier process was killed; a folder that is not whole is run again."""
    folder = RunFolder(cell.path)
    begun = begun_before(folder, mine=not folder.complete)
    if cell.base is not None:
        if folder.started:
            with folder.lock():
                folder.clear()
        if "method" in cell.settings:
            rerank_run(cell.base, out_dir=cell.path, trust=cell.named, **cell.settings)
        else:
            reevaluate_run(cell.base, cell.path, cell.settings, trust=cell.named)
        return
    run(cell.model, cell.dataset, list(cell.files), cell.settings, **begun)
