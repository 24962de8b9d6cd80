"""Scores of all items by walking the trie, against teacher forcing of every item's code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import CODES, END, random_codes, table, teacher_forced, tiny_inputs, tiny_model, uneven_codes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_persona.errors import UserError
from recbole_persona.lm.decoding import beam_search
from recbole_persona.lm.ranking import score_items
from recbole_persona.lm.trie import Trie

torch.set_num_threads(1)
EXACT = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(scope="module")
def models():
    return {kind: tiny_model(kind) for kind in ("T5", "Llama")}


def all_codes(trie):
    return trie.codes(torch.arange(trie.n_items))


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("kind", ["T5", "MT5", "Llama", "Qwen2", "GPT2"])
def test_scores_are_those_of_teacher_forcing(kind, embedded):
    model, trie = tiny_model(kind), Trie.build(random_codes(120, 3, 8))
    inputs = tiny_inputs(model, embedded=embedded)
    scores = score_items(model, trie, **inputs)
    torch.testing.assert_close(scores, teacher_forced(model, all_codes(trie), **inputs), **EXACT)


@settings(max_examples=15, deadline=None)
@given(CODES, st.sampled_from(["T5", "Llama"]), st.sampled_from([1, 4, 11, 10**6]))
def test_tiles_change_nothing(models, codes, kind, tile):
    """Codes of any lengths, in tiles of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbole_persona.lm.ranking.TILE", tile)
        patch.setattr("recbole_persona.lm.ranking.POSITIONS", 2 * tile)  # two rows at a time
        model, trie = models[kind], Trie.build(table(codes))
        inputs = tiny_inputs(model)
        found = score_items(model, trie, **inputs)
    torch.testing.assert_close(found, teacher_forced(model, table(codes), **inputs), **EXACT)


@pytest.mark.parametrize("tile", [3, 256])
@pytest.mark.parametrize("kind", ["T5", "Llama"])
def test_candidates_of_each_row(models, kind, tile, monkeypatch):
    """Another run's best items: different ones and different numbers of them in every row, in any order."""
    monkeypatch.setattr("recbole_persona.lm.ranking.TILE", tile)
    model, codes = models[kind], random_codes(80, 3, 6)
    inputs = tiny_inputs(model)
    items = torch.tensor([[80, 3, 11, 2, 40, 0], [0, 0, 0, 0, 0, 0], [7, 3, 0, 9, 0, 3]])
    found = score_items(model, Trie.build(codes), items, **inputs)
    expected = torch.full_like(found, -torch.inf)
    scores = teacher_forced(model, codes, **inputs)
    for row, own in enumerate(items.tolist()):
        for item in filter(None, own):
            expected[row, item] = scores[row, item]
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("kind", ["T5", "Llama"])
def test_ends_and_single_tokens(models, kind):
    model = models[kind]
    inputs = tiny_inputs(model)
    for trie in (Trie.build(uneven_codes(), end=END), Trie.build(table([(5,), (9,), (30,)]))):
        scores = score_items(model, trie, **inputs)
        torch.testing.assert_close(scores, teacher_forced(model, all_codes(trie), **inputs), **EXACT)


def test_a_search_with_many_beams_agrees(models):
    model, trie = models["T5"], Trie.build(random_codes(60, 3, 8))
    inputs = tiny_inputs(model)
    scores, items = score_items(model, trie, **inputs).sort(dim=1, descending=True)
    found = beam_search(model, trie, 60, **inputs)
    assert torch.equal(found[0], items[:, :60])
    torch.testing.assert_close(found[1], scores[:, :60])


def test_encoder_outputs_and_no_mask(models):
    """An encoder that has run, as a tensor or as what it returned."""
    model, trie = models["T5"], Trie.build(random_codes(30, 3, 5))
    inputs = tiny_inputs(model)
    expected = score_items(model, trie, **inputs)
    with torch.no_grad():
        output = model.get_encoder()(**inputs)
    mask = inputs["attention_mask"]
    assert torch.equal(score_items(model, trie, encoder_outputs=output, attention_mask=mask), expected)
    assert torch.equal(score_items(model, trie, encoder_outputs=output[0], attention_mask=mask), expected)
    ones = {"attention_mask": torch.ones_like(mask), "input_ids": inputs["input_ids"]}
    assert torch.equal(score_items(model, trie, input_ids=inputs["input_ids"]), score_items(model, trie, **ones))


class Sizes(TorchDispatchMode):
    """The numbers of elements of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        self.found |= {part.numel() for part in tree_leaves(output) if isinstance(part, torch.Tensor)}
        return output


def test_memory_is_that_of_a_tile(models):
    """Beside the scores, what is made on the way does not grow with the catalogue."""
    largest = []
    for n_items in (1_500, 6_000):
        trie, inputs = Trie.build(random_codes(n_items, 3, 36)), tiny_inputs(models["T5"])
        with Sizes() as sizes:
            scores = score_items(models["T5"], trie, **inputs)
        largest.append(max(sizes.found - {scores.numel()}))
    assert largest[1] <= 1.2 * largest[0]


def test_bad_input(models):
    with pytest.raises(UserError, match="use token 77"):
        score_items(models["T5"], Trie.build(table([(3, 77), (4, 5)])), **tiny_inputs(models["T5"]))
    bart = tiny_model("Bart")
    with pytest.raises(UserError, match="BartForConditionalGeneration cannot be decoded along a trie"):
        score_items(bart, Trie.build(table([(3, 7), (4, 5)])), **tiny_inputs(bart))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["T5", "Llama"])
def test_same_on_cuda(kind):
    model, codes = tiny_model(kind), random_codes(120, 3, 8)
    inputs = tiny_inputs(model)
    expected = score_items(model, Trie.build(codes), **inputs)
    inputs = {name: values.cuda() for name, values in inputs.items()}
    found = score_items(model.cuda(), Trie.build(codes).cuda(), **inputs)
    torch.testing.assert_close(found.cpu(), expected)
