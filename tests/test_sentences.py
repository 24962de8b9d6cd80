"""Sentences that a language model learns: how many are cut, and what stands behind a cut."""

import logging

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from tiny_lm import saved_model

from recbole_persona.config import Config
from recbole_persona.data import planted
from recbole_persona.lm.sampling import NucleusSampling
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


def decoded_ids(model, monkeypatch):
    """A list that the token ids of whatever the model writes from now on are put into."""
    found, decode = [], model.backbone.tokenizer.batch_decode
    monkeypatch.setattr(
        model.backbone.tokenizer, "batch_decode", lambda ids, **how: found.append(ids) or decode(ids, **how)
    )
    return found


def test_what_is_written_is_at_most_as_long(data, monkeypatch):
    model, loaders = made(data, longest_answer=3)
    written = decoded_ids(model, monkeypatch)
    assert len(model.eval().generate(loaders[2]._dataset[torch.arange(4)])) == 4
    assert written[0].shape[1] <= 3


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return saved_model("t5", tmp_path_factory.mktemp("t5"))


@pytest.mark.parametrize("backbone", ["scratch:tiny", "scratch:t5-tiny", None])
def test_no_sentence_holds_a_symbol_of_a_code(data, pretrained, backbone, monkeypatch):
    """No sentence holds a symbol, even where symbols have the highest logits: greedy search, beam search and sampling."""
    model, loaders = made(data, backbone=backbone or str(pretrained), longest_answer=6)
    rows, (first, number) = loaders[2]._dataset[torch.arange(4)], (model.backbone.n_tokens, model.backbone.n_symbols)
    assert (
        number > 100
        and torch.isin(model._prompt(rows, "explanation").tokens.values, torch.arange(number) + first).any()
    )
    for_symbols = torch.arange(first + number) >= first
    written = decoded_ids(model, monkeypatch)
    head = model.eval().backbone.bare.get_output_embeddings()
    head.register_forward_hook(lambda module, states, logits: logits + 50 * for_symbols)
    likeliest = model.backbone.bare.generate(**model._inputs(rows, "explanation"), max_new_tokens=2, do_sample=False)
    assert likeliest.max() >= first
    model.generate(rows)
    model.generate(rows, beams=3)
    model.generate(rows, sampling=NucleusSampling(torch.rand(4, 6)))
    assert [len(ids) for ids in written] == [4, 4, 4] and all((ids < first).all() for ids in written)


@pytest.mark.parametrize("backbone", ["scratch:tiny", None])
def test_a_text_that_spells_a_code_holds_no_symbol(data, pretrained, backbone, tmp_path):
    file = data / "small" / "small.inter"
    (tmp_path / "small").mkdir()
    for other in (data / "small").iterdir():
        (tmp_path / "small" / other.name).write_bytes(other.read_bytes())
    head, *rows = file.read_text().splitlines()
    place = [cell.partition(":")[0] for cell in head.split("\t")].index("explanation")
    cells = [row.split("\t") for row in rows]
    told = ["\t".join([*row[:place], row[place] and f"<a_1> {row[place]} <b_2>", *row[place + 1 :]]) for row in cells]
    (tmp_path / "small" / "small.inter").write_text("\n".join([head, *told]) + "\n")
    model, _ = made(tmp_path, backbone=backbone or str(pretrained))
    assert model.sentences.values.max() < model.backbone.n_tokens <= model.answers.values.min()


def test_a_run_that_learns_no_sentence_keeps_its_hash(data):
    ranks = {"metrics": ["NDCG"], "valid_metric": "NDCG@10", "tasks": ["sequential"]}
    hashes = [config_hash(settings(data, **more, longest_answer=n)) for more in (ranks, {}) for n in (20, None)]
    assert hashes[0] == hashes[1] and hashes[2] != hashes[3]
