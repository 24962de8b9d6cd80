"""A small POD or PeaPOD on the data set ``tiny``."""

import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model

from recbole_persona.config import Config


def small_pod(data, name="PeaPOD", seed=0, **settings):
    """Model in double precision without dropout, and its three loaders.

    Args:
        data: of :func:`upstream_models.write_tiny`.
    """
    shared = {
        "data_path": str(data.parent),
        "use_gpu": False,
        "backbone": "scratch:tiny",
        "backbone_dropout": 0.0,
        "train_batch_size": 64,
        "n_candidates": 5,
        "n_beams": 7,
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": "*"},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    }
    if name == "PeaPOD":
        shared |= {"user_vector_size": 8, "n_neighbours": 4, "n_heads": 2}
    config = Config(name, "tiny", config_dict={**shared, **settings})
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(seed)
    model = get_model(name)(config, loaders[0]._dataset).double()
    for name, buffer in model.named_buffers():
        if name == "user_vectors":
            buffer.data = buffer.double()
    return model.eval(), loaders


def epoch_losses(model, loader, rate, epochs=6) -> list[float]:
    """Trains what is not frozen, in single precision; the mean loss of each epoch."""
    optimiser = torch.optim.Adam([value for value in model.float().parameters() if value.requires_grad], rate)
    means = []
    for _ in range(epochs):
        losses = []
        for batch in loader:
            optimiser.zero_grad()
            losses.append(model.calculate_loss(batch))
            losses[-1].backward()
            optimiser.step()
        means.append(torch.stack(losses).mean().item())
    return means
