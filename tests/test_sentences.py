"""Sentences that a language model learns: how many are cut, and what stands behind a cut."""

import logging

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation

from recbole_persona.config import Config
from recbole_persona.data import planted
from recbole_persona.lm.sentences import longest_answer
from recbole_persona.registry import get_model
from recbole_persona.runs import config_hash

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    planted.write(folder, "small", n_interactions=480, n_users=24, n_items=160, n_tastes=4, seed=1)
    file = folder / "small" / "small.inter"
    head, *rows = file.read_text().splitlines()
    place = [cell.partition(":")[0] for cell in head.split("\t")].index("explanation")
    random = np.random.default_rng(0)
    for number, row in enumerate(rows):
        cells = row.split("\t")
        cells[place] += " really" * int(random.geometric(0.2)) if cells[place] else ""
        rows[number] = "\t".join(cells)
    file.write_text("\n".join([head, *rows]) + "\n")
    return folder


def settings(data, **changes):
    shared = {
        "data_path": str(data),
        "use_gpu": False,
        "backbone": "scratch:tiny",
        "vocabulary_size": 200,
        "n_beams": 5,
        "tasks": ["explanation"],
        "metrics": ["rouge-l"],
        "valid_metric": "rouge-l",
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating", "feature"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    }
    return Config("POD", "small", config_dict=shared | changes)


def made(data, **changes):
    config = settings(data, **changes)
    loaders = data_preparation(config, create_dataset(config))
    return get_model("POD")(config, loaders[0]._dataset), loaders


def whole_sentences(model, loaders, rows):
    """Row by row, the tokens of the sentence and its end."""
    texts = loaders[0]._dataset.texts[model.text_field][rows[model.text_field]]
    return [[*model.backbone.tokens(text), model.backbone.eos] for text in texts]


@pytest.mark.parametrize("backbone", ["scratch:tiny", "scratch:t5-tiny"])
@pytest.mark.parametrize("asked, most", [(None, 0.2), (13, 0.9)])
def test_no_end_stands_behind_a_cut(data, backbone, asked, most):
    model, loaders = made(data, backbone=backbone, longest_answer=asked)
    batch = next(iter(loaders[0]))
    whole = whole_sentences(model, loaders, batch)
    answer = model._answers(batch, "explanation")
    for tokens, taught in zip(whole, answer.values.split(answer.lengths.tolist()), strict=True):
        assert taught.tolist() == tokens[: model.longest_answer]
        assert (taught[-1] == model.backbone.eos) == (len(tokens) <= model.longest_answer)
    assert 0 < np.mean([len(tokens) > model.longest_answer for tokens in whole]) < most
    assert model.calculate_loss(batch).isfinite()


def test_by_default_as_few_tokens_as_cut_at_most_a_twentieth(data):
    model, loaders = made(data)
    whole = whole_sentences(model, loaders, loaders[0]._dataset.inter_feat)
    lengths = np.array([len(tokens) for tokens in whole if len(tokens) > 1])
    assert (lengths > model.longest_answer).mean() <= 0.05 < (lengths > model.longest_answer - 1).mean()


@pytest.mark.parametrize("number", [1, 2, 19, 20, 21, 40, 100])
def test_the_length_for_any_number_of_sentences(number):
    lengths = torch.from_numpy(np.random.default_rng(number).permutation(number) + 3)
    found = longest_answer(None, lengths)
    enough = [length for length in range(1, number + 4) if (lengths > length).double().mean() <= 0.05]
    assert found == enough[0]


def test_the_share_that_is_cut_is_said(caplog):
    lengths = torch.tensor([5] * 90 + [30] * 10)
    with caplog.at_level(logging.INFO):
        assert longest_answer(20, lengths) == 20
        assert longest_answer(None, lengths) == 30
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", "longest_answer: 20 tokens, which cut 10 of the 100 training sentences (10.0 %)."),
        ("INFO", "longest_answer: 30 tokens, which cut 0 of the 100 training sentences (0.0 %)."),
    ]


def test_what_is_written_is_at_most_as_long(data):
    model, loaders = made(data, longest_answer=3)
    rows = loaders[2]._dataset[torch.arange(4)]
    lengths = [len(model.backbone.tokens(text)) for text in model.eval().generate(rows)]
    assert max(lengths) <= 3


def test_a_run_that_learns_no_sentence_keeps_its_hash(data):
    ranks = {"metrics": ["NDCG"], "valid_metric": "NDCG@10", "tasks": ["sequential"]}
    hashes = [config_hash(settings(data, **more, longest_answer=n)) for more in (ranks, {}) for n in (20, None)]
    assert hashes[0] == hashes[1] and hashes[2] != hashes[3]
