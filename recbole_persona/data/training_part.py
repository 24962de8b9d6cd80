"""All that the training part holds, whether a data set has a row per interaction or a row per target."""

import numpy as np
import scipy.sparse as sp


def training_interactions(dataset, *fields) -> list[np.ndarray]:
    """Columns of all training interactions, one array (R,) per field.

    A sequential data set has one row per target. The first item of a user is no row's target; it stands in the history of
    the row whose history is one item long. Other histories are left alone: with a random split they hold items that are
    targets of the test.
    """
    feat = dataset.inter_feat
    if getattr(dataset, f"{dataset.iid_field}_list_field", None) not in feat:
        return [feat[field].numpy() for field in fields]
    first = feat[np.flatnonzero(feat[dataset.item_list_length_field].numpy() == 1)]
    columns = []
    for field in fields:
        lists = getattr(dataset, f"{field}_list_field", None)
        earlier = first[field] if lists is None else first[lists][:, 0]
        columns.append(np.concatenate([feat[field].numpy(), earlier.numpy()]))
    return columns


def training_matrix(dataset, dtype=np.float64) -> sp.csr_array:
    """Sparse 0/1 (n_users, n_items): who has met which item in training."""
    users, items = training_interactions(dataset, dataset.uid_field, dataset.iid_field)
    return pair_matrix(users, items, (dataset.user_num, dataset.item_num), dtype)


def pair_matrix(rows, columns, shape, dtype=np.float64) -> sp.csr_array:
    """Sparse ones at the pairs of rows (N,) and columns (N,), however often a pair is named."""
    matrix = sp.csr_array((np.ones(len(rows), dtype), (rows, columns)), shape=shape)  # sums what stands twice
    matrix.data[:] = 1
    return matrix
