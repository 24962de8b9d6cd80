"""All that the training part holds, whether a data set has a row per interaction or a row per target."""

import numpy as np


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
