"""``board.yaml``, read and checked: what a page compares, and how. No model, no data and no run is looked at here."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from recbole_persona.config import Config, read_yaml
from recbole_persona.errors import UserError, nearest

PICTURES = {"intervals": {"metric"}, "frontier": {"x", "y"}, "groups": {"split", "metric"}, "curves": set()}
_BOARD = {
    "title", "text", "datasets", "protocol", "seeds", "primary", "baseline", "splits", "tables", "pictures",
    "rows",
}  # fmt: skip
_DATASET = {"seeds", "config", "rows", "data_path", "tune"}
_AGAIN = {"again", "config", "rows", "seeds"}
_JUDGING = (
    "eval_args",
    "eval_history",
    "mask_history",
    "metrics",
    "topk",
    "bertscore_encoder",
)  # what a finished run can be tested again with
_KINDS = ("model", "study", "rerank", "published")  # a row has exactly one of them
_ROW = {"name", "status", "against", "seeds", *_KINDS}
_MODEL_ROW = {"config", "config_files", "tune"}
_TUNE = {"space", "trials", "epochs", "sampler", "pruner", "timeout", "select_seeds", "finalists"}
_RERANK = ("of", "method", "by", "weights", "keep", "candidates")
_METRIC = re.compile(r"[a-z][\w-]*(@[1-9]\d*)?")


@dataclass(frozen=True)
class Row:
    """One row of a board.

    Attributes:
        kind: ``model`` (settings of the row's own, tuned or not), ``study``, ``rerank`` or ``published``.
        model: name of the model; None for the other kinds.
        config: settings of the row's own.
        files: YAML files below ``config``.
        tune: how the row's settings are searched; None when they are given.
        study: folder of a finished search; its best settings are the row's.
        rerank: ``of`` (name of a row), ``method``, ``by`` (name of another, for the method ``model``), ``weights``,
            ``keep``, ``candidates``.
        published: CSV file of somebody else's numbers.
        against: row that this one is tested against; None for the board's baseline.
        seeds: of this row on every data set; None for those of the data set.
        runs: false for a row that stands on the page as "not run".
    """

    name: str
    kind: str
    model: str | None = None
    config: dict = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    tune: dict | None = None
    study: Path | None = None
    rerank: dict | None = None
    published: Path | None = None
    against: str | None = None
    seeds: tuple[int, ...] | None = None
    runs: bool = True

    @property
    def needs(self) -> dict[str, str]:
        """The rows that it re-ranks, or re-ranks with, by key."""
        return {key: self.rerank[key] for key in ("of", "by") if self.rerank and key in self.rerank}


@dataclass(frozen=True)
class Part:
    """One data set of a board: its seeds, the settings of all its rows on top of the protocol, and the rows.

    Attributes:
        dataset: its name; for a section whose runs are those of another one, tested again, the section's own name.
        again: the settings that a section of this kind changes; None for one that is trained.
        source: the data set that is read.
    """

    dataset: str
    seeds: tuple[int, ...]
    config: dict
    rows: tuple[Row, ...]
    data_path: str | None
    source: str
    again: dict | None = None

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """The seeds that a row runs with here; a re-ranked row has those of the row that it re-ranks."""
        if row.rerank:
            (row,) = (other for other in self.rows if other.name == row.rerank["of"])
        return row.seeds or self.seeds


@dataclass(frozen=True)
class Board:
    """A board as its YAML file says it; the keys of the file are the attributes."""

    file: Path
    title: str
    text: str
    parts: tuple[Part, ...]
    protocol: dict
    primary: str
    baseline: str | None
    splits: dict
    tables: tuple[dict, ...]
    pictures: tuple[dict, ...]

    @property
    def name(self) -> str:
        return self.file.stem


def read_board(file) -> Board:
    """Read ``board.yaml``.

    Raises:
        UserError: a missing file, an unknown key (the nearest is named), a value of another form, a row that a table, a
            data set, the baseline or a re-ranking names and that does not stand there.
    """
    file = Path(file)
    given = read_yaml(file, Config.__new__(Config)._build_yaml_loader())  # in which 1e-3 is a number
    _only(given, _BOARD, str(file))
    rows = _rows(given.get("rows"), file)
    names = list(rows)
    seeds = _seeds(given.get("seeds", [2020]), "seeds")
    protocol = _mapping(given.get("protocol"), "protocol")
    if "seed" in protocol:
        raise UserError("seed under protocol: name the seeds of the models under seeds: [2020, …].")
    baseline = given.get("baseline")
    for row in rows.values():
        _known(row.against, names, f"against of the row {row.name!r}")
        for key, needed in row.needs.items():
            _known(needed, names, f"{key} in the row {row.name!r}")
            if rows[needed].kind in ("rerank", "published"):
                raise UserError(f"The row {row.name!r} can re-rank a row of a model only, not {needed!r}.")
            if row.runs and not rows[needed].runs:
                raise UserError(f"The row {row.name!r} re-ranks {needed!r}, whose status is not run.")
    _known(baseline, names, "baseline")
    for name in {baseline, *(row.against for row in rows.values())} - {None}:
        if rows[name].kind == "published":
            raise UserError(f"Published numbers have no users, so {name!r} cannot be what rows are tested against.")
    splits = _splits(given.get("splits"), file)
    board = Board(
        file=file,
        title=str(given.get("title") or file.stem),
        text=str(given.get("text") or ""),
        parts=_parts(given.get("datasets"), rows, seeds, file),
        protocol=protocol,
        primary=_metric(given.get("primary", "ndcg@10"), "primary"),
        baseline=baseline,
        splits=splits,
        tables=_tables(given.get("tables"), names),
        pictures=_pictures(given.get("pictures"), names, list(splits)),
    )
    for part in board.parts:
        _check_part(part, baseline)
    return board


def beside(file: Path, name) -> Path:
    """A file that a board names: beside the board, else as it is (from the working folder)."""
    near = file.parent / str(name)
    return near if near.exists() else Path(str(name))


def _check_part(part, baseline):
    """What the rows of a data set build on or are tested against must be among them."""
    present = {row.name for row in part.rows}
    for row in part.rows:
        for needed in (*row.needs.values(), row.against, baseline):
            if needed and needed not in present:
                raise UserError(
                    f"On {part.dataset} the row {row.name!r} needs the row {needed!r}; add it to rows of that data set."
                )
        needed = [other for other in part.rows if other.name in row.needs.values()]
        if len({frozenset(part.seeds_of(other)) for other in needed}) > 1:
            raise UserError(
                f"The row {row.name!r} re-ranks runs of one row with those of another, seed by seed; give the rows "
                f"{' and '.join(repr(other.name) for other in needed)} the same seeds."
            )


def _rows(given, file) -> dict[str, Row]:
    if not isinstance(given, list) or not given:
        raise UserError(f"{file} needs rows: a list such as - {{name: BPR, model: BPR}}.")
    rows = {}
    for number, values in enumerate(given, 1):
        if not isinstance(values, dict) or not isinstance(values.get("name"), str) or not values["name"].strip():
            raise UserError(f"Row {number} of {file} needs a name.")
        row = _row(values, file)
        if row.name in rows:
            raise UserError(f"Two rows of {file} are named {row.name!r}; every row needs a name of its own.")
        rows[row.name] = row
    return rows


def _row(values, file) -> Row:
    name = values["name"].strip()
    where = f"the row {name!r}"
    kinds = [kind for kind in _KINDS if values.get(kind) is not None]
    if len(kinds) != 1:
        raise UserError(
            f"The row {name!r} must have one of {', '.join(_KINDS)}; it has {' and '.join(kinds) or 'none'}."
        )
    (kind,) = kinds
    if "seeds" in values and kind not in ("model", "study"):
        raise UserError(f"The row {name!r} has no seeds of its own, since it trains no model; leave seeds out.")
    _only(values, _ROW | (_MODEL_ROW if kind == "model" else set()), where)
    if kind == "published":
        _only(values, {"name", "published"}, f"{where}, which is published and never tested,")
    status = _one_of(f"status of {where}", values.get("status", "run"), ("run", "not run"))
    config = _mapping(values.get("config"), f"config of {where}")
    for key in ("seed", "run_dir", "model", "dataset"):
        if key in config:
            raise UserError(f"{where[0].upper()}{where[1:]} sets {key}, which is the board's to say.")
    files = values.get("config_files") or []
    files = tuple(beside(file, path) for path in ([files] if isinstance(files, str) else files))
    return Row(
        name=name,
        kind=kind,
        model=str(values["model"]) if kind == "model" else None,
        config=config,
        files=files,
        tune={"trials": 20, "space": None, **_tune(values["tune"], where, file)} if "tune" in values else None,
        study=beside(file, values["study"]) if kind == "study" else None,
        rerank=_rerank(values["rerank"], where) if kind == "rerank" else None,
        published=beside(file, values["published"]) if kind == "published" else None,
        against=values.get("against"),
        seeds=_seeds(values["seeds"], f"seeds of {where}") if "seeds" in values else None,
        runs=status == "run",
    )


def _tune(values, where, file) -> dict:
    values = _mapping(values, f"tune of {where}")
    _only(values, _TUNE, f"tune of {where}")
    for key in ("trials", "epochs"):
        if key in values and (type(values[key]) is not int or values[key] < 1):
            raise UserError(f"{key} in tune of {where} must be a whole number of at least 1; it is {values[key]!r}.")
    if values.get("select_seeds"):  # an empty list takes the rows' choice over seeds back on one data set
        values = values | {"select_seeds": list(_seeds(values["select_seeds"], f"select_seeds in tune of {where}"))}
    if isinstance(values.get("space"), str):
        values = values | {"space": str(beside(file, values["space"]))}
    return values


def _rerank(values, where) -> dict:
    values = _mapping(values, f"rerank of {where}")
    _only(values, _RERANK, f"rerank of {where}")
    missing = [key for key in ("of", "method", "weights") if key not in values]
    if missing:
        raise UserError(f"rerank of {where} lacks {missing[0]}; write {{of: BPR, method: mmr, weights: [0, 0.1, …]}}.")
    if (values["method"] == "model") != ("by" in values):
        raise UserError(f"rerank of {where}: the method model, and no other, names the row that re-ranks in by.")
    weights = values["weights"]
    weights = weights if isinstance(weights, list) else [weights]
    if not weights or not all(isinstance(w, (int, float)) and not isinstance(w, bool) and 0 <= w <= 1 for w in weights):
        raise UserError(f"weights in rerank of {where} must be numbers from 0 to 1; they are {weights!r}.")
    keep = values.get("keep", 0.99)
    if keep is not None and (not isinstance(keep, (int, float)) or not 0 < keep <= 1):
        raise UserError(f"keep in rerank of {where} is a share above 0, at most 1, or null; it is {keep!r}.")
    given = {"candidates": 100, **values, "weights": weights, "keep": keep}
    return {key: given[key] for key in _RERANK if key in given}


def _parts(given, rows, seeds, file) -> tuple[Part, ...]:
    given = [given] if isinstance(given, str) else given
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        given = dict.fromkeys(given)
    if not isinstance(given, dict) or not given:
        raise UserError(f"{file} needs datasets: a list of names, or a mapping of names to {{seeds, config, rows}}.")
    parts = []
    for name, values in given.items():
        where = f"the data set {name!r}"
        values = _mapping(values, where)
        if "again" in values:
            parts.append(_again(str(name), values, rows, parts))
            continue
        _only(values, _DATASET, where)
        wanted = values.get("rows", list(rows))
        wanted = [wanted] if isinstance(wanted, str) else wanted
        for row in wanted:
            _known(row, list(rows), f"rows of {where}")
        config = _mapping(values.get("config"), f"config of {where}")
        for key in ("seed", "run_dir", "model", "dataset"):
            if key in config:
                raise UserError(f"config of {where} sets {key}, which is the board's to say.")
        searched = _tune(values.get("tune"), where, file)
        path = values.get("data_path")
        parts.append(
            Part(
                dataset=str(name),
                source=str(name),
                seeds=_seeds(values["seeds"], f"seeds of {where}") if "seeds" in values else seeds,
                config=config,
                rows=tuple(_searched_so(row, searched) for row in rows.values() if row.name in wanted),
                data_path=str(beside(file, path)) if path else None,
            )
        )
    return tuple(parts)


def _searched_so(row, changed) -> Row:
    """A row whose search, if it has one, is changed as its data set says."""
    return replace(row, tune={**row.tune, **changed}) if row.tune else row


def _again(name, values, rows, parts) -> Part:
    """A section with the runs of an earlier one, tested again by other rules."""
    where = f"the section {name!r}"
    _only(values, _AGAIN, where)
    trained = {part.dataset: part for part in parts if part.again is None}
    _known(values["again"], list(trained), f"again of {where}")
    base = trained[values["again"]]
    changed = _mapping(values.get("config"), f"config of {where}")
    if not changed or set(changed) - set(_JUDGING):
        raise UserError(
            f"{where[0].upper()}{where[1:]} tests runs again: its config sets some of {', '.join(_JUDGING)}."
        )
    trained = [row.name for row in base.rows if row.kind in ("model", "study")]
    published = [row.name for row in rows.values() if row.kind == "published"]
    wanted = values.get("rows", trained)
    for row in [wanted] if isinstance(wanted, str) else wanted:
        _known(row, [*trained, *published], f"rows of {where}")
    kept = tuple(row for row in rows.values() if row.name in wanted)
    seeds = _seeds(values["seeds"], f"seeds of {where}") if "seeds" in values else base.seeds
    if missing := set(seeds) - set(base.seeds):
        raise UserError(f"seeds of {where} names {min(missing)}, with which {base.dataset} does not run.")
    return replace(base, dataset=name, rows=kept, seeds=seeds, config={**base.config, **changed}, again=changed)


def _splits(given, file) -> dict:
    """Quantity -> ``{"groups": n}``, with ``file`` and ``column`` for one that the user brings."""
    splits = {}
    for name, values in _mapping(given, "splits").items():
        values = {"groups": values} if type(values) is int else _mapping(values, f"splits {name}")
        _only(values, {"groups", "file", "column"}, f"splits {name}")
        groups = values.get("groups", 4)
        if type(groups) is not int or groups < 2:
            raise UserError(f"splits {name} needs a number of groups, 2 or more; it is {groups!r}.")
        splits[str(name)] = {"groups": groups}
        if "file" in values:
            splits[str(name)] |= {"file": beside(file, values["file"]), "column": values.get("column", str(name))}
    return splits


def _tables(given, names) -> tuple[dict, ...]:
    if given is None:
        return ({"title": "", "text": "", "rows": None},)
    if not isinstance(given, list):
        raise UserError("tables must be a list such as - {title: …, rows: [names], text: …}.")
    tables = []
    for values in given:
        values = _mapping(values, "a table")
        _only(values, {"title", "rows", "text"}, "a table")
        for row in values.get("rows") or []:
            _known(row, names, f"rows of the table {values.get('title', '')!r}")
        tables.append({"title": "", "text": "", "rows": None, **values})
    return tuple(tables)


def _pictures(given, names, splits) -> tuple[dict, ...]:
    pictures = []
    for values in given or []:
        values = _mapping(values, "a picture")
        kind = _one_of("kind of a picture", values.get("kind"), PICTURES)
        where = f"a picture of kind {kind}"
        _only(values, {"kind", "rows"} | PICTURES[kind], where)
        for key in sorted(PICTURES[kind] - {"split"}):
            _metric(values.get(key), f"{key} of {where}")
        if kind == "groups":
            _one_of(f"split of {where}", values.get("split"), splits)
        for row in values.get("rows") or []:
            _known(row, names, f"rows of {where}")
        pictures.append(values)
    return tuple(pictures)


def _seeds(given, where) -> tuple[int, ...]:
    seeds = given if isinstance(given, list) else [given]
    if not seeds or not all(type(s) is int and 0 <= s < 2**32 for s in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"{where} must be different whole numbers, such as [2020, 2021]; they are {given!r}.")
    return tuple(seeds)


def _metric(given, where) -> str:
    if not isinstance(given, str) or not _METRIC.fullmatch(given):
        raise UserError(f"{where} must be a metric as results name it, such as ndcg@10; it is {given!r}.")
    return given


def _mapping(given, where) -> dict:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{where} must be a mapping of `key: value`; it is {given!r}.")
    return given


def _only(values, allowed, where):
    for key in values:
        if key not in allowed:
            raise UserError(f"There is no key {key!r} in {where}{nearest(key, allowed)}.")


def _one_of(what, value, allowed):
    if value not in allowed:
        raise UserError(f"{what} must be one of {', '.join(allowed)}; it is {value!r}.")
    return value


def _known(name, names, where):
    if name is None or name in names:
        return
    raise UserError(f"{where} names {name!r}, which is no row{nearest(name, names)}.")
