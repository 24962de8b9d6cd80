"""Texts of atomic files, unchanged: a column of texts is a column of places in a store.

RecBole would read a text as a token: quotes are taken away or swallow lines, "NA" becomes an empty cell, all texts together
become an array as wide as the longest. Here a column ``name:text``, or one that ``text_fields`` names, is read by one rule:
a line is a row, and separators alone separate cells. RecBole's table holds the place of each text, so that it is
filtered, split, sorted and gathered with its row; ``dataset.texts[name]`` holds the texts.
"""

import importlib
import io
import re
from array import array

import numpy as np

from recbole_persona.data.columns import TEXT, absent, option, read_anyway
from recbole_persona.data.lines import line_fault
from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, seen_as

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_SIGNS = {written[1]: sign for sign, written in _ESCAPES.items()}


def escaped(text: str) -> str:
    """A text as a cell of a column ``name:text``: a backslash, tab, line feed and carriage return as ``\\\\ \\t \\n \\r``."""
    return re.sub(r"[\\\t\n\r]", lambda found: _ESCAPES[found[0]], text)


def unescaped(cell: str) -> str:
    """The text of a cell of a column ``name:text``; a backslash before anything else is a backslash."""
    if "\\" not in cell:
        return cell
    return re.sub(r"\\([\\tnr])", lambda found: _SIGNS[found[1]], cell)


def unquoted(cell: str) -> str:
    """The text of a cell of a token column: one that is quoted as in CSV without its quotes, any other as it is."""
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


class TextStore:
    """Texts by place: 0 is no text. All of them are one string of bytes and where each ends."""

    def __init__(self):
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self._blanks = array("q", [0])

    def append(self, text: str) -> int:
        """The place of a new text; 0 when it is empty."""
        if not text:
            return 0
        if not text.strip():
            self._blanks.append(len(self._ends))
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))
        return len(self._ends) - 1

    def filled(self, places) -> np.ndarray:
        """The places (n,) among ``places`` (N,) that hold a text of more than blanks, by their numbers."""
        return np.flatnonzero(~np.isin(places, self._blanks))

    def __len__(self) -> int:
        """The number of places, place 0 included."""
        return len(self._ends)

    def __getitem__(self, places):
        """The text at a place, or the texts at many.

        Args:
            places: int; or array, tensor or list of int, of any shape: (n,), (B, T).

        Returns:
            A str; or a list of str, nested as the places are.

        Raises:
            IndexError: there is no such place.
        """
        places = np.asarray(places)
        if places.ndim:
            return [self[part] for part in (places.tolist() if places.ndim == 1 else places)]
        place = int(places)
        if place == 0:
            return ""
        if not 0 < place < len(self):
            raise IndexError(f"there is no text {place}; there are {len(self) - 1}")
        return self._bytes[self._ends[place - 1] : self._ends[place]].decode("utf-8", "surrogatepass")


def text_store(dataset, field: str, reader: str) -> TextStore:
    """The texts of a column that something cannot do without.

    Args:
        field: name of the column.
        reader: what reads it, as the beginning of a sentence ("The task explanation").

    Raises:
        UserError: the data set has no such texts.
    """
    if field in dataset.texts:
        return dataset.texts[field]
    fault = absent(dataset.config, field)
    if field in dataset.field2type and "token" in dataset.field2type[field].value:
        fault += f"; set {option('text_fields', [*named(dataset.config), field])}"
    raise UserError(f"{reader} reads the texts {field!r}, and {fault}.")


class NumberedTexts:
    """An atomic file as RecBole shall see it: where a text stood stands its place.

    Args:
        columns: ``(place in the row, store, reader of the cell)`` of every text column; no store: the cell is left empty.
    """

    def __init__(self, path, config, header, columns):
        self.path, self.encoding, self.separator = path, config["encoding"], config["field_separator"]
        self.columns = columns
        numbered = {place for place, _, _ in columns}
        self.ids = id_columns(config)
        self.header = [
            f"{cell.rpartition(':')[0]}:token" if place in numbered else cell for place, cell in enumerate(header)
        ]
        self.kinds = {self.header[place]: np.int64 for place, store, _ in columns if store is not None}

    def __str__(self):
        return str(self.path)

    def open(self):
        """A text file whose lines are made as they are read; the texts go to their stores."""
        return _Lines(self._lines())

    def _lines(self):
        yield self.separator.join(self.header) + "\n"
        with open(self.path, encoding=self.encoding, newline="\n") as file:  # a line ends at a line feed alone
            end = "\r\n" if file.readline().endswith("\r\n") else "\n"
            for number, line in enumerate(file, 2):
                line = line.removesuffix(end)
                if not line:
                    continue
                cells = line.split(self.separator)
                if len(cells) != len(self.header):
                    raise UserError(
                        f"{self.path}, line {number}: {len(cells)} cells, and the header has {len(self.header)}; in a file "
                        "with texts a line is a row, and a separator inside a text is written \\t, an end of line \\n."
                    )
                for place, store, reader in self.columns:
                    cells[place] = "" if store is None else str(store.append(reader(cells[place])))
                row = self.separator.join(cells)
                if '"' in row and (fault := line_fault(row, self.separator, self.header, ids=self.ids)):
                    raise UserError(f"{self.path}, line {number}: {fault}")
                yield row + "\n"


class _Lines(io.TextIOBase):
    def __init__(self, lines):
        self._lines = lines

    def readable(self):
        return True

    def readline(self, size=-1):
        return next(self._lines, "")

    def read(self, size=-1):
        pieces, length = [], 0
        for line in self._lines:
            pieces.append(line)
            length += len(line)
            if 0 <= size <= length:
                break
        return "".join(pieces)

    def close(self):
        self._lines.close()
        super().close()


def numbered(dataset, path, source):
    """The file as :class:`NumberedTexts`, its stores entered in ``dataset.texts``; the path itself when it has no text.

    Raises:
        UserError: ``text_fields`` names a column of numbers, or one that RecBole needs as ids or times.
    """
    config = dataset.config
    load, unload = dataset._get_load_and_unload_col(source)
    with open(path, encoding=config["encoding"]) as file:
        header = file.readline().removesuffix("\n").split(config["field_separator"])
    columns = []
    for place, cell in enumerate(header):
        field, _, kind = cell.rpartition(":")
        if kind != TEXT and field not in named(config):
            continue
        if field in (*id_columns(config), dataset.time_field, dataset.label_field) or "float" in kind:
            raise UserError(
                f"The column {cell} of {path} cannot be text: it holds {'numbers' if 'float' in kind else 'ids'}."
            )
        loaded = (load is None or field in load) and field not in (unload or ())
        store = dataset.texts.setdefault(field, TextStore()) if loaded else None
        columns.append((place, store, unescaped if kind == TEXT else unquoted))
    return NumberedTexts(path, config, header, columns) if columns else path


def named(config) -> list[str]:
    """The names in ``text_fields``; UserError when it is no list of them."""
    names = config["text_fields"] or []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(f"text_fields must be a list of columns, such as [title]; it is {names!r}.")
    return list(names)


def id_columns(config) -> set[str]:
    """The names of the columns that hold ids of users, items, entities and relations, lists of them too."""
    keys = ("USER_ID", "ITEM_ID", "HEAD_ENTITY_ID", "TAIL_ENTITY_ID", "RELATION_ID", "ENTITY_ID")
    aliases = (config[f"alias_of_{name}"] or () for name in ("user_id", "item_id", "entity_id", "relation_id"))
    return {config[f"{key}_FIELD"] for key in keys}.union(*aliases)


def is_text(dataset, field) -> bool:
    """Whether a column holds places of texts, one in a row or (in histories) a list of them."""
    return field in dataset.texts or field.removesuffix(dataset.config["LIST_SUFFIX"] or "_list") in dataset.texts


def install() -> None:
    """Every data set reads texts from now on, RecBole's own models' too."""
    module = importlib.import_module("recbole.data.dataset.dataset")
    trees = importlib.import_module("recbole.data.dataset.decisiontree_dataset")
    Dataset, pandas = module.Dataset, module.pd

    def read_csv(path, **kwargs):
        if not isinstance(path, NumberedTexts):
            return pandas.read_csv(path, **kwargs)
        with path.open() as file:
            return pandas.read_csv(file, **kwargs | {"dtype": kwargs["dtype"] | path.kinds})

    module.pd = seen_as(pandas, read_csv=read_csv)
    module.open = lambda path, *args, **kwargs: (
        path.open() if isinstance(path, NumberedTexts) else open(path, *args, **kwargs)
    )

    @around(Dataset, "_get_preset")
    def _get_preset(upstream, self):
        upstream(self)
        self.texts = {}

    @around(Dataset, "_load_feat")
    def _load_feat(upstream, self, filepath, source):
        return upstream(self, numbered(self, filepath, source), source)

    @around(Dataset, "_load_data")
    def _load_data(upstream, self, token, dataset_path):
        upstream(self, token, dataset_path)
        for name in named(self.config):
            if name not in self.texts:
                raise UserError(f"text_fields names {name!r}, and {absent(self.config, name)}.")

    @around(Dataset, "_get_load_and_unload_col")
    def _get_load_and_unload_col(upstream, self, source):
        load, unload = upstream(self, source)
        return load and load | read_anyway(self.config), unload

    @around(Dataset, "fields")
    def fields(upstream, self, ftype=None, source=None):
        """Texts are no features: they are not numbered as tokens, and no model embeds them."""
        return [field for field in upstream(self, ftype, source) if not is_text(self, field)]

    @around(Dataset, "num")
    def num(upstream, self, field):
        if is_text(self, field):
            raise UserError(
                f"The column {field!r} holds texts, which are no tokens to learn from; name another feature."
            )
        return upstream(self, field)

    @around(trees.DecisionTreeDataset, "_convert_token_to_hash")
    def _convert_token_to_hash(upstream, self):
        """Trees split by every column that they get."""
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in [field for field in feat if is_text(self, field)]:
                self._del_col(feat, field)
        upstream(self)
