"""The layers of UserEncoder against slow loops and plain code in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recbole_persona.layers.features import NumberFeature, TimeGaps, TokenFeature, TokenSetFeature
from recbole_persona.layers.leave_one_out import even_remainder, without_each
from recbole_persona.layers.packing import Packing
from recbole_persona.layers.softmax_loss import sampled_cross_entropy, table_cross_entropy

torch.set_num_threads(1)
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=15)


# Packed sequences


@settings(max_examples=60, deadline=None)
@given(LENGTHS)
def test_packing_keeps_every_place_and_nothing_else(lengths):
    packing, width = Packing(torch.tensor(lengths)), max(lengths) + 1
    padded = torch.arange(1, len(lengths) * width + 1).view(-1, width)
    inside = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    packed = packing.pack(padded)
    assert sorted(packed.tolist()) == padded[inside].tolist()
    assert torch.equal(packing.pad(packed, width), padded * inside)
    newest = [int(row[length - 1]) if length else 0 for row, length in zip(padded, lengths)]
    assert packing.newest(packed).tolist() == newest


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.sampled_from([1, 2]))
def test_causal_attention_is_that_of_loops(lengths, n_heads):
    packing, size, width = Packing(torch.tensor(lengths)), 4, max(max(lengths), 1)
    mixed = torch.randn(len(packing), 3 * size, dtype=torch.float64, requires_grad=True)
    expected, part = [], size // n_heads
    rows = packing.pad(mixed, width)
    for row, length in zip(rows, lengths):
        for place in range(length):
            for head in range(n_heads):
                query, *_ = row[place].view(3, n_heads, part)[:, head]
                keys = [row[past].view(3, n_heads, part)[1, head] for past in range(place + 1)]
                values = [row[past].view(3, n_heads, part)[2, head] for past in range(place + 1)]
                shares = torch.softmax(torch.stack([query @ key / math.sqrt(part) for key in keys]), dim=0)
                expected.append(sum(share * value for share, value in zip(shares, values)))
    found = packing.causal_attention(mixed, n_heads)
    assert found.shape == (sum(lengths), size)
    if not expected:
        return
    expected = torch.stack(expected).view(-1, size)  # by row and place
    order = torch.argsort(packing.row * width + packing.step)
    torch.testing.assert_close(found[order], expected)
    direction = torch.randn_like(expected)
    first, second = (
        torch.autograd.grad((values * direction).sum(), mixed, retain_graph=True)[0]
        for values in (found[order], expected)
    )
    torch.testing.assert_close(first, second)


# The softmax over a table


def test_cross_entropy_over_a_table_that_leaves_few_rows_to_a_tile():
    states, table = (torch.randn(n, 3, requires_grad=True) for n in (70, 20_000))
    target = torch.randint(20_000, (70,))
    losses = table_cross_entropy(states, table, target), F.cross_entropy(states @ table.T, target)
    torch.testing.assert_close(*losses)
    found, wanted = (torch.autograd.grad(loss, (states, table)) for loss in losses)
    torch.testing.assert_close(found, wanted)
    assert all(gradient.is_contiguous() for gradient in found)


@pytest.mark.parametrize("tile", [1, 7, 40, 2**20])
def test_cross_entropy_is_that_of_torch(tile):
    states = torch.randn(23, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(11, (23,))
    plain = F.cross_entropy(states @ table.T, target)
    tiled = table_cross_entropy(states, table, target, tile=tile)
    torch.testing.assert_close(tiled, plain)
    for first, second in zip(*(torch.autograd.grad(3.0 * loss, (states, table)) for loss in (tiled, plain))):
        torch.testing.assert_close(first, second)
    assert torch.autograd.gradcheck(lambda *factors: table_cross_entropy(*factors, target, tile=tile), (states, table))


def test_cross_entropy_of_several_targets_is_the_mean_of_each():
    states = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(9, (6, 3))
    share = torch.rand(6, 3, dtype=torch.float64)
    share = share / share.sum(dim=1, keepdim=True)
    logs = (states @ table.T).log_softmax(dim=1)
    plain = -(logs.gather(1, target) * share).sum(dim=1).mean()
    torch.testing.assert_close(table_cross_entropy(states, table, target, share, tile=20), plain)
    assert torch.autograd.gradcheck(lambda *f: table_cross_entropy(*f, target, share, tile=20), (states, table))


def test_cross_entropy_of_scores_that_overflow_and_of_no_rows():
    states, table = torch.randn(8, 4) * 300, torch.randn(20, 4) * 300
    target = torch.randint(20, (8,))
    torch.testing.assert_close(table_cross_entropy(states, table, target), F.cross_entropy(states @ table.T, target))
    states, table = torch.zeros(0, 4, requires_grad=True), torch.randn(20, 4, requires_grad=True)
    loss = table_cross_entropy(states, table, target[:0])
    loss.backward()
    assert loss == 0 and not table.grad.any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cross_entropy_in_low_precision(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    states, table, target = torch.randn(300, 16), torch.randn(500, 16), torch.randint(500, (300,))
    exact = torch.autograd.grad(
        table_cross_entropy(states.requires_grad_(), table.requires_grad_(), target), (states, table)
    )
    own = [value.detach().to(device).requires_grad_() for value in (states, table)]
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = table_cross_entropy(*own, target.to(device))
    assert loss.dtype == torch.float32
    for low, high in zip(torch.autograd.grad(loss, own), exact):
        assert low.dtype == torch.float32 and (low.cpu() - high).norm() < 2e-2 * high.norm()


def test_a_sample_of_all_entries_is_the_whole_softmax(monkeypatch):
    states, table = torch.randn(7, 4, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    target = torch.randint(10, (7,))
    whole = F.cross_entropy(states @ table.T, target)
    torch.testing.assert_close(sampled_cross_entropy(states, table, target, 10), whole)
    torch.testing.assert_close(sampled_cross_entropy(states, table, target, 99), whole)
    # the sampled sum itself, with every entry drawn: no entry counts twice, not the target either
    drawn = torch.randperm(10)
    monkeypatch.setattr(torch, "randperm", lambda number, device=None: drawn)
    table_of_one_more = torch.cat([table, torch.full((1, 4), 0.0, dtype=torch.float64)])
    found = sampled_cross_entropy(states, table_of_one_more, target, 10)  # the eleventh is never drawn
    scores = states @ table.T + math.log(11 / 10)
    own = scores.gather(1, target.unsqueeze(1)) - math.log(11 / 10)
    expected = (scores.scatter(1, target.unsqueeze(1), own).logsumexp(1) - own.squeeze(1)).mean()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, check_dtype=False)


def test_the_sum_of_a_sample_is_right_on_average():
    torch.manual_seed(0)
    states, table, target = torch.randn(3, 4), torch.randn(40, 4), torch.tensor([0, 7, 39])
    own = (states * table[target]).sum(dim=1)
    whole = (states @ table.T).exp().sum(dim=1) - own.exp()  # of all but the target
    sums = 0.0
    for _ in range(4000):
        losses = torch.stack([sampled_cross_entropy(states[[row]], table, target[[row]], 10) for row in range(3)])
        sums = sums + (losses + own).exp() - own.exp()
    assert ((sums / 4000 / whole - 1).abs() < 0.05).all()


# Features


def test_tokens_are_predicted_from_the_table_that_the_input_reads():
    feature = TokenFeature(6, 3, 4).double()
    states, values = torch.randn(9, 4, dtype=torch.float64), torch.tensor([1, 2, 0, 5, 5, 0, 3, 1, 4])
    known = values > 0
    logits = feature.question(states[known]) @ feature.table.weight[1:].T
    torch.testing.assert_close(feature.loss(states, values), F.cross_entropy(logits, values[known] - 1))
    assert not feature(values)[~known].any()


def test_sets_of_tokens_are_read_and_predicted_by_their_mean():
    feature = TokenSetFeature(6, 3, 4).double()
    states = torch.randn(4, 4, dtype=torch.float64)
    values = torch.tensor([[1, 2, 0], [0, 0, 0], [5, 0, 0], [3, 4, 1]])
    sets = [[1, 2], [], [5], [3, 4, 1]]
    for vector, own in zip(feature(values), sets):
        mean = sum(feature.table.weight[token] for token in own) / len(own) if own else torch.zeros(3).double()
        torch.testing.assert_close(vector, mean)
    losses = []
    for state, own in zip(states, sets):
        logs = (feature.question(state) @ feature.table.weight[1:].T).log_softmax(dim=0)
        losses += [-sum(logs[token - 1] for token in own) / len(own)] if own else []
    torch.testing.assert_close(feature.loss(states, values), sum(losses) / len(losses))


def test_numbers_are_one_direction_and_predicted_in_their_own_unit():
    feature = NumberFeature(torch.tensor([1.0, 3.0, 5.0, 3.0]), 3, 4).double()
    with torch.no_grad():
        feature.direction.normal_()
    unit = math.sqrt(2)
    torch.testing.assert_close(
        feature(torch.tensor([3.0, 5.0])), torch.stack([0 * feature.direction, 2 / unit * feature.direction])
    )
    states = torch.randn(2, 4, dtype=torch.float64)
    errors = feature.question(states).squeeze(1) - torch.tensor([-2 / unit, 0.0])
    torch.testing.assert_close(
        feature.loss(states, torch.tensor([1.0, 3.0])), errors.square().mean() / 2, rtol=1e-6, atol=0
    )
    assert torch.isfinite(NumberFeature(torch.full((5,), 2.0), 3, 4).unit)  # all alike: no deviation


def test_gaps_in_time_have_powers_of_two():
    gaps = TimeGaps(torch.tensor([0.0, 30.0, 10.0]), 2)
    with torch.no_grad():
        gaps.table.weight.copy_(torch.arange(34.0).unsqueeze(1).expand(-1, 2))
    times = torch.tensor([500.0, 500.0, 510.0, 580.0, 1.0, 11.0, 1e30])
    steps = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = [0, 1, 1 + 1, 1 + 3, 0, 1 + 1, 1 + 32]  # floor(log2(gap / 10 + 1)), from 1
    assert gaps(times, steps)[:, 0].tolist() == expected


# Leaving out


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_without_each_leaves_each_out_once(lengths):
    width = max(1, *lengths) if len(lengths) > 1 else max(1, lengths[0])
    rows = [[10 * row + place + 1 for place in range(length)] for row, length in enumerate(lengths)]
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    columns = {"items": padded, "pairs": torch.stack([padded, -padded], dim=2)}
    shorter, row, place = without_each(columns, torch.tensor(lengths))
    expected = [(r, p, own[:p] + own[p + 1 :]) for r, own in enumerate(rows) for p in range(len(own))]
    found = list(zip(row.tolist(), place.tolist(), shorter["items"].tolist()))
    assert [(r, p, items[: lengths[r] - 1]) for r, p, items in found] == expected
    assert torch.equal(shorter["pairs"][..., 1], -shorter["items"])


def test_contributions_sum_to_the_whole_in_the_order_of_the_losses():
    lost, whole = torch.randn(5, 4), torch.randn(5)
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    shares = even_remainder(lost, whole, present)
    torch.testing.assert_close(shares.sum(dim=1), whole * present.any(dim=1))
    assert not shares[~present].any()
    torch.testing.assert_close(shares[0] - shares[0, 0], lost[0] - lost[0, 0])
