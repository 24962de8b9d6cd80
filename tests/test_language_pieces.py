"""Prompts put together from pieces, codes of items, and a tokenizer of one's own, against slow ways."""

import functools
import itertools
import operator

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from recbole_persona.errors import UserError
from recbole_persona.lm import item_codes
from recbole_persona.lm.ragged import Ragged, concatenated
from recbole_persona.lm.tasks import Writer, parse
from recbole_persona.lm.tokenizers import trained_tokenizer

torch.set_num_threads(1)

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=6)


def listed(ragged):
    return [ragged.values[start:end].tolist() for start, end in itertools.pairwise(ragged.offsets.tolist())]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, data=st.data())
def test_ragged_rows_are_lists(rows, data):
    ragged = Ragged.of(rows)
    assert listed(ragged) == rows
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    assert listed(ragged.take(torch.tensor(chosen, dtype=torch.int64))) == [rows[row] for row in chosen]
    assert listed(ragged.first(2)) == [row[:2] for row in rows]
    cut = data.draw(st.integers(0, len(rows)))
    joined = ragged.joined(torch.tensor([cut, len(rows) - cut]))
    assert listed(joined) == [
        functools.reduce(operator.iadd, rows[:cut], []),
        functools.reduce(operator.iadd, rows[cut:], []),
    ]
    assert listed(concatenated([ragged, ragged.first(1), ragged])) == [row + row[:1] + row for row in rows]


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, side=st.sampled_from(["left", "right"]))
def test_padding_goes_to_one_side(rows, side):
    values, mask = Ragged.of(rows).padded(side, fill=-1)
    width = max(map(len, rows))
    for row, own, inside in zip(rows, values.tolist(), mask.tolist()):
        filled, hidden = [-1] * (width - len(row)), [False] * (width - len(row))
        assert own == (filled + row if side == "left" else row + filled)
        assert inside == (hidden + [True] * len(row) if side == "left" else [True] * len(row) + hidden)


def test_prompts_are_those_written_row_by_row():
    codes = [[], [11, 12], [21], [31, 32, 33], [41]]
    titles, users = [[], [5], [6, 7], [8], [9, 9]], [[0], [1, 1], [2]]
    pieces = {"item": Ragged.of(codes), "user": Ragged.of(users)}
    pieces |= {"item.title": Ragged.of(titles), "history.title": Ragged.of(titles)}
    words = {"asks": [100], "for": [101], "of": [102]}
    template = "{user} asks for {item} {item.title} of {history} {history.title} for {candidates}"
    writer = Writer([template], lambda text: [token for word in text.split() for token in words[word]], pieces)
    rows = {
        "user": torch.tensor([1, 2]),
        "item": torch.tensor([3, 1]),
        "history": torch.tensor([[1, 2, 0], [4, 0, 0]]),
        "length": torch.tensor([2, 1]),
        "candidates": torch.tensor([[3, 4], [2, 1]]),
    }
    prompts = writer.write(-1, rows)
    for number, (tokens, mentioned, items) in enumerate(zip(*map(listed, prompts))):
        item, history = int(rows["item"][number]), rows["history"][number][: rows["length"][number]].tolist()
        named = [users[rows["user"][number]], None, codes[item], titles[item], None]
        history_titles = functools.reduce(operator.iadd, (titles[i] for i in history), [])
        mentions = [
            named[0],
            codes[item],
            *(codes[i] for i in history),
            *(codes[i] for i in rows["candidates"][number]),
        ]
        expected = (
            mentions[0]
            + [100, 101]
            + mentions[1]
            + titles[item]
            + [102]
            + functools.reduce(operator.iadd, mentions[2 : 2 + len(history)], [])
            + history_titles
            + [101]
        )
        expected += functools.reduce(operator.iadd, mentions[2 + len(history) :], [])
        assert tokens == expected
        by_number = {}
        for token, word in zip(tokens, mentioned):
            by_number.setdefault(word, []).append(token)
        assert by_number.pop(0) == [100, 101] + titles[item] + [102] + history_titles + [101]
        assert [by_number[word] for word in sorted(by_number)] == mentions
        told = [(token, found) for token, found in zip(tokens, items) if found]
        assert told == [(codes[i][-1], i) for i in [item, *history, *rows["candidates"][number].tolist()]]


@pytest.mark.parametrize("template", ["{who}", "{item title}", "{titles.item}", "{history.}", "{}", "{history"])
def test_a_template_that_names_nothing_known(template):
    with pytest.raises(UserError, match="The template"):
        parse(template)


def test_a_row_that_lacks_what_the_prompt_names():
    tokens = trained_tokenizer(["after"], 300)
    writer = Writer(["{user} after {history}"], tokens.encode, {"item": Ragged.of([[], [3]])})
    with pytest.raises(UserError, match=r"names \{user\}, and these rows have no user"):
        writer.write(0, {"history": torch.tensor([[1]]), "length": torch.tensor([1])})


def test_a_tokenizer_is_the_same_each_time():
    texts = ["The sound is warm, isn't it?", "It's a naïve café: 42 strings!", "The sound of 7 strings"] * 3
    one, two = (trained_tokenizer(texts, 300) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    for text in texts:
        assert one.decode(one(text, add_special_tokens=False)["input_ids"]).strip() == text
    assert one.unk_token_id in one("日本")["input_ids"]


# Codes


def met(users=40, items=90, seed=0):
    found = np.random.default_rng(seed).random((users, items)) < 0.15
    found[:, 0] = False
    return sp.csr_array(found.astype(float))


MADE = {
    "random": lambda: item_codes.random_codes(90, 3),
    "sequential": lambda: item_codes.sequential_codes(np.array([5, 7, 5, 3]), 90),
    "collaborative": lambda: item_codes.collaborative_codes(met(), 3),
    "semantic": lambda: item_codes.semantic_codes(item_codes.collaborative_vectors(met(), 3, 8), 3, 2, 8),
    "own symbols": lambda: item_codes.semantic_codes(item_codes.collaborative_vectors(met(), 3, 8), 3, 1, 8, own=True),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_item_has_a_code_of_its_own_that_begins_no_other(kind):
    codes = MADE[kind]()
    assert (codes.symbols[0] == -1).all() and len(codes.symbols) == 90
    assert codes.symbols.max() < len(codes.words) == len(set(codes.words))
    rows = [tuple(row[row >= 0].tolist()) for row in codes.symbols[1:]]
    assert all(rows) and len(set(rows)) == 89
    assert not any(a != b and b[: len(a)] == a for a in rows for b in rows)
    assert (MADE[kind]().symbols == codes.symbols).all()
    assert len(codes.texts[1].split()) == len(rows[0]) and codes.texts[0] == ""
    used = [set(column[column >= 0]) for column in codes.symbols.T]
    assert not any(a & b for a, b in itertools.combinations(used, 2))  # a symbol belongs to one place


def test_sequential_numbers_follow_the_training_part():
    codes = item_codes.sequential_codes(np.array([5, 7, 5, 3]), 300)
    base = item_codes.BASE
    symbols = codes.symbols - np.array([0, codes.symbols[1:, 0].max() + 1])
    assert [symbols[item] @ [base, 1] for item in (5, 7, 3, 1, 2, 4)] == [0, 1, 2, 3, 4, 5]


def test_clusters_are_divided_until_they_are_small():
    """More items than one spectral cluster keeps; in blocks that are chosen together."""
    rng = np.random.default_rng(0)
    block = np.arange(200) % 4
    likes = rng.random((300, 200)) < np.where(rng.integers(4, size=300)[:, None] == block, 0.3, 0.005)
    matrix = sp.csr_array(np.column_stack([np.zeros(300), likes]))
    codes = item_codes.collaborative_codes(matrix, 0).symbols[1:]
    assert len(np.unique(codes, axis=0)) == 200
    _, first = np.unique(codes[:, 0], return_inverse=True)
    same = [np.bincount(block[first == one]).max() / (first == one).sum() for one in range(first.max() + 1)]
    assert first.max() > 0 and np.mean(same) > 0.9


def test_texts_of_one_word():
    assert item_codes.text_vectors(["", "loud", "loud", "loud loud"], 0).shape == (4, 1)


def test_residual_levels_divide_what_is_left_over():
    vectors = item_codes.collaborative_vectors(met(60, 200), 0, 16)
    normed = vectors[1:] / np.linalg.norm(vectors[1:], axis=1, keepdims=True)
    codes = item_codes.semantic_codes(vectors, 0, 2, 6).symbols[1:]
    left = []
    for level in (1, 2):
        _, group = np.unique(codes[:, :level], axis=0, return_inverse=True)
        means = np.stack([normed[group.ravel() == g].mean(axis=0) for g in range(group.max() + 1)])
        left.append(np.square(normed - means[group.ravel()]).sum())
    assert left[1] < left[0] < np.square(normed - normed.mean(axis=0)).sum()


def test_the_last_symbol_can_be_the_items_own():
    vectors = item_codes.collaborative_vectors(met(), 3, 8)
    shared, own = (item_codes.semantic_codes(vectors, 3, 2, 8, own=own).symbols[1:] for own in (False, True))
    assert (shared[:, :2] == own[:, :2]).all() and len(set(own[:, 2])) == 89 > len(set(shared[:, 2]))


def test_titles_are_codes_and_those_of_several_items_are_numbered():
    codes = item_codes.title_codes(["", "Heat", "Alien", "Heat", "Heat 1", " Heat  "])
    assert codes.texts == ["", "Heat 2", "Alien", "Heat 3", "Heat 1", "Heat 4"] and not codes.words
    with pytest.raises(UserError, match="1 items have no title"):
        item_codes.title_codes(["", "Heat", " "])


def test_items_with_alike_texts_have_alike_codes():
    texts = ["", *("red shoes" for _ in range(3)), *("a novel of the sea" for _ in range(3)), "red boots"]
    vectors = item_codes.text_vectors(texts, 0, 4)
    assert vectors.shape == (8, 4)
    symbols = item_codes.semantic_codes(vectors, 0, 1, 2).symbols
    assert len(set(symbols[[1, 2, 3, 7], 0])) == 1 and len(set(symbols[[4, 5, 6], 0])) == 1
    with pytest.raises(UserError, match="hold no words"):
        item_codes.text_vectors(["", ".", ","], 0)


def test_what_items_are_stands_beside_who_chose_them():
    """The cosine of two items is the mean of that by users and that by texts; who was never chosen has a text alone."""
    chosen = met(60, 12).toarray()
    chosen[:, 11] = 0
    chosen, texts = sp.csr_array(chosen), ["", *(f"{'red' if i % 2 else 'blue'} shoe {i % 3}x" for i in range(1, 12))]
    both = item_codes.semantic_vectors(chosen, texts, 0)
    one, two = item_codes.collaborative_vectors(chosen, 0), item_codes.text_vectors(texts, 0)
    cosines = [cosine_similarity(vectors[1:]) for vectors in (one, two, both)]
    np.testing.assert_allclose(cosines[2][:10, :10], (cosines[0][:10, :10] + cosines[1][:10, :10]) / 2, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(both[[1, 11]], axis=1), [2**0.5, 1])
    np.testing.assert_allclose(item_codes.semantic_vectors(chosen, None, 0), one, atol=1e-9)
