"""How often an item is part of a history, over all rows of a sequential data set."""

import torch

from recbole_persona.data.histories import END, HistoryRows


def history_counts(rows, list_field, length_field, n_items):
    """Occurrences of every item in the histories of ``rows``, each history counted once for each row that has it.

    Args:
        rows: :class:`~recbole_persona.data.histories.HistoryRows`, or an ``Interaction`` with ready-made lists.
        list_field: name of the column of histories.
        length_field: name of their lengths.
        n_items: number of ids, padding included.

    Returns:
        (n_items,) float64.
    """
    length = rows[length_field]
    if not isinstance(rows, HistoryRows):
        items = rows[list_field]
        inside = torch.arange(items.shape[1]) < length.unsqueeze(1)
        return torch.bincount(items[inside], minlength=n_items).double()
    flat = rows.histories.flat[rows.histories.fields[list_field]]
    begun = torch.zeros(len(flat) + 1, dtype=torch.int64)  # histories that begin at a place, less those that ended
    begun.index_add_(0, rows[END] - length, torch.ones_like(length))
    begun.index_add_(0, rows[END], -torch.ones_like(length))
    return torch.bincount(flat, weights=begun.cumsum(0)[:-1].double(), minlength=n_items)
