"""Names of the weights of RecBole's DIN -> ours."""

import torch

MLP = "mlp_layers.mlp_layers"


def recbole_weights(state, columns):
    """The ``state_dict`` of our DIN, ``variant: recbole``, from that of RecBole's.

    Args:
        state: name -> tensor, of ``recbole.model.sequential_recommender.din.DIN``.
        columns: the :class:`~recbole_persona.layers.feature_table.Column` of each of the items' parts, in our order.

    Raises:
        KeyError: a weight is missing.
    """
    ours = dict(_tables(state, columns))
    for number in range(sum(name.startswith(f"attention.att_{MLP}") for name in state) // 2):
        for kind in ("weight", "bias"):  # a layer is dropout, linear, activation
            ours[f"unit.tower.linears.{number}.{kind}"] = state[f"attention.att_{MLP}.{3 * number + 1}.{kind}"]
    for name, value in state.items():
        layer, _, kind = name.removeprefix(f"dnn_{MLP}.").partition(".")
        if name.startswith(f"dnn_{MLP}."):  # a layer is dropout, linear, normalisation, activation
            part = ("linears.{}.", "norms.{}.")[int(layer) % 4 - 1].format(int(layer) // 4)
            ours[f"tower.{part}{kind}"] = value
    for kind in ("weight", "bias"):
        ours[f"unit.tower.output.{kind}"] = state[f"attention.dense.{kind}"]
        ours[f"tower.output.{kind}"] = state[f"dnn_predict_layers.{kind}"]
    return ours


def _tables(state, columns):
    """RecBole keeps one table for all columns of one token (or number) a row, and one for each of several."""
    for number, several in ((False, False), (False, True), (True, False), (True, True)):
        kind = f"{'float' if number else 'token'}{'_seq' if several else ''}_embedding_table.item"
        places = [n for n, column in enumerate(columns) if (column.number, column.several) == (number, several)]
        if several:
            tables = [state[f"embedding_layer.{kind}.{turn}.weight"] for turn in range(len(places))]
        elif places:
            sizes = [columns[place].size for place in places]
            tables = torch.split(state[f"embedding_layer.{kind}.embedding.weight"], sizes)
        else:
            continue
        for place, table in zip(places, tables):
            yield f"items.embeddings.{place}.table.weight", table
