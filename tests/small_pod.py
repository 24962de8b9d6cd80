"""A small POD or PeaPOD on the data set ``tiny``, and its scores by a slow way."""

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


def held_out(loaders, number=6):
    return loaders[2]._dataset[torch.arange(number)]


def slow_scores(model, rows, task="sequential"):
    """log p(code) of every item for every row by teacher forcing, one pair at a time, from the text of the prompt."""
    scores = torch.full((len(rows), model.n_items), -torch.inf, dtype=torch.float64)
    codes, lengths = model.answers, model.answers.lengths
    for row in range(len(rows)):
        one = rows[[row]]
        written = model.writers[task].write(-1, model._rows(one))
        context = model.context(one, task)
        words = model.backbone.embed(written.tokens.values)
        if model.word_embedding is not None and not (model.every_prefix and task == "sequential"):
            words = words + model.word_embedding(written.words.values)
        if model.item_embedding is not None and task == "sequential":
            ends = model.answers.take(one["item_id_list"][0, : one["item_length"][0]]).offsets[1:] - 1
            for end, item in zip(ends.tolist(), one["item_id_list"][0].tolist()):
                words[end] += model.item_embedding.weight[item]
        prompt = torch.cat([context[0], words]).unsqueeze(0)
        for item in range(1, model.n_items):
            code = codes.take(torch.tensor([item])).values
            if model.is_causal:
                vectors = torch.cat([prompt, model.backbone.embed(code).unsqueeze(0)], dim=1)
                logits = model.backbone.llm(inputs_embeds=vectors).logits[0, prompt.shape[1] - 1 : -1]
            else:
                logits = model.backbone.llm(inputs_embeds=prompt, labels=code.unsqueeze(0)).logits[0]
            steps = torch.arange(int(lengths[item]))
            scores[row, item] = logits.log_softmax(dim=-1)[steps, code].sum()
    return scores
