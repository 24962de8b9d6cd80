"""The trie of item codes against nested dictionaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import CODES, random_codes, table, uneven_codes

from recbole_persona.errors import UserError
from recbole_persona.lm.trie import Candidates, Trie

torch.set_num_threads(1)


def nested(codes):
    """{prefix: {token}} and {code: item} of a table."""
    children, items = {}, {}
    for item, row in enumerate(codes.tolist()):
        code = tuple(token for token in row if token >= 0)
        for length, token in enumerate(code):
            children.setdefault(code[:length], set()).add(token)
        if code:
            items[code] = item
    return children, items


def check(trie, codes):
    """Everything that a trie tells, by its definition."""
    children, items = nested(codes)
    prefixes = [*children, *items]
    assert trie.levels[-1] == len(trie.token) == len(prefixes) and trie.n_items == len(codes)
    for prefix in prefixes:
        node = trie.walk(torch.tensor([prefix], dtype=torch.long).view(1, -1))
        assert trie.depth[node].item() == len(prefix)
        assert trie.levels[len(prefix)] <= node.item() < trie.levels[len(prefix) + 1]
        assert trie.item[node].item() == items.get(prefix, 0)
        found, there = trie.children_of(node)
        assert trie.token[found[there]].tolist() == sorted(children.get(prefix, ()))
        below = trie.order[trie.first[node] : trie.end[node]].tolist()
        assert sorted(below) == sorted(item for code, item in items.items() if code[: len(prefix)] == prefix)
    for code, item in items.items():
        assert [token for token in trie.codes(torch.tensor(item)).tolist() if token >= 0] == list(code)
        path = trie.path[trie.rank[item]].tolist()
        ways = [trie.walk(torch.tensor([code[:length]])).item() for length in range(1, len(code) + 1)]
        assert path == ways + [-1] * (trie.longest - len(code))
    assert trie.codes(torch.tensor([[0]])).tolist() == [[[-1] * trie.longest]]
    lengths = [len(code) for code in items]
    assert trie.n_leaves == [lengths.count(length) for length in range(trie.longest + 1)]
    for depth in range(1, trie.longest + 1):
        known = {code[depth - 1] for code in items if len(code) >= depth}
        assert trie.level_tokens(depth).tolist() == sorted(known)


@settings(max_examples=80, deadline=None)
@given(CODES)
def test_trie_is_that_of_dictionaries(codes):
    check(Trie.build(table(codes)), table(codes))


def test_end_lets_a_code_begin_another():
    codes, end = uneven_codes(), 1
    ended = [[*[token for token in row if token >= 0], end] for row in codes[1:].tolist()]
    trie = Trie.build(torch.from_numpy(codes), end=end)
    check(trie, table(ended))
    assert trie.last_token == end
    assert Trie.build(random_codes(20, 3, 5)).last_token is None


def test_walk_tells_where_there_is_nothing():
    trie = Trie.build(table([(3, 1), (3, 4), (6, 2)]))
    wrong = torch.tensor([[3, 2], [9, 1], [0, 3], [3, 10**6], [6, 1], [-1, 4]])
    assert trie.walk(wrong).tolist() == [-1] * len(wrong)
    assert trie.walk(torch.tensor([[3, 1, 1]])).tolist() == [-1]
    assert trie.walk(wrong[:, :0]).tolist() == [0] * len(wrong)


@settings(max_examples=60, deadline=None)
@given(CODES, st.integers(0, 2**32 - 1))
def test_candidates_are_counted_below_every_node(codes, seed):
    trie = Trie.build(table(codes))
    allowed = torch.rand(4, trie.n_items, generator=torch.Generator().manual_seed(seed)) < 0.3
    nodes = torch.arange(len(trie.token)).expand(4, -1)
    below = Candidates(trie, allowed).below(nodes.unsqueeze(2)).squeeze(2)
    for row in range(4):
        for node in range(len(trie.token)):
            items = trie.order[trie.first[node] : trie.end[node]]
            assert below[row, node] == allowed[row, items].any()


def test_tensors_move_and_are_not_saved():
    trie = Trie.build(random_codes(30, 3, 6))
    assert not trie.state_dict()
    assert trie.half().token.dtype == torch.int64
    assert all(values.device.type == "meta" for values in trie.to("meta").buffers())


def test_large_catalogue():
    codes = random_codes(20_000, 4, 40)
    trie = Trie.build(codes)
    items = torch.arange(1, trie.n_items)
    assert torch.equal(trie.codes(items), torch.from_numpy(codes[1:]))
    assert torch.equal(trie.item[trie.walk(torch.from_numpy(codes[1:]))], items)


@pytest.mark.parametrize(
    "codes, sentence",
    [
        (table([(3, 4), (5, 6), (3, 4)]), "Items 1 and 3 have the same code"),
        (table([(3, 4, 5), (6,), (3, 4)]), "The code of item 3 .3 4. begins that of item 1; .* end"),
        (np.array([[-1, -1], [2, 3], [-1, -1]]), "Item 2 has no code"),
        (np.array([[2, 3], [2, 4]]), "Row 0"),
        (np.array([[-1, -1], [-1, 3]]), "first place"),
        (np.array([-1, 3]), "a table"),
        (np.array([[-1]]), "a table"),
    ],
)
def test_bad_codes(codes, sentence):
    with pytest.raises(UserError, match=sentence):
        Trie.build(codes)


def test_candidates_of_another_catalogue():
    with pytest.raises(ValueError, match="5 columns, the trie 4 items"):
        Candidates(Trie.build(table([(3, 1), (3, 4), (6, 2)])), torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_same_on_cuda():
    codes = random_codes(200, 3, 9)
    trie, moved = Trie.build(codes), Trie.build(codes).cuda()
    sequences = torch.from_numpy(codes[1:])
    assert torch.equal(moved.walk(sequences.cuda()).cpu(), trie.walk(sequences))
    allowed, nodes = torch.rand(2, trie.n_items) < 0.2, torch.arange(len(trie.token)).expand(2, -1)
    assert torch.equal(
        Candidates(moved, allowed.cuda()).below(nodes.cuda()).cpu(), Candidates(trie, allowed).below(nodes)
    )
