"""Windows for causal models: each target once, every input in front of its target, nothing held out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from tiny import HEADER, write_tiny

from recbole_persona.config import Config
from recbole_persona.data.histories import END
from recbole_persona.data.windows import WindowTrainLoader, cut
from recbole_persona.errors import UserError


def loaders(dataset="ml-100k", **changes):
    config = Config(model="SASRec", dataset=dataset, config_dict={"train_neg_sample_args": None} | changes)
    parts = data_preparation(config, create_dataset(config))
    config["window_stride"] = changes.get("window_stride")
    return WindowTrainLoader(config, parts[0]._dataset, None, shuffle=True), parts


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 12), st.data())
def test_windows_against_a_loop(lengths, longest, data):
    stride = data.draw(st.integers(1, longest))
    slow = []
    for sequence, n in enumerate(lengths):
        end, done = n, n  # targets behind `done` have a window
        while True:
            start = max(0, end - longest)
            begins = start if end - longest <= 0 else max(start, end - stride)
            slow.append((sequence, start, end, done - begins))
            done = begins
            if done <= 0:
                break
            end -= stride
    found = list(zip(*(column.tolist() for column in cut(np.array(lengths), longest, stride))))
    assert found == slow
    for sequence, n in enumerate(lengths):
        trained = [place for s, _, end, new in found if s == sequence for place in range(end - new, end)]
        assert sorted(trained) == list(range(n))


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
@pytest.mark.parametrize("stride", [None, 3])
def test_an_epoch_has_every_training_target_once(stride, split):
    loader, parts = loaders(
        window_stride=stride,
        MAX_ITEM_LIST_LENGTH=10,
        eval_args={"split": split, "order": "TO", "group_by": "user", "mode": "full"},
    )
    rows = parts[0]._dataset.inter_feat
    users, targets, inputs = rows["user_id"], rows["item_id"], rows["item_id_list"]
    latest = inputs[torch.arange(len(inputs)), rows["item_length"] - 1]
    expected = torch.stack([users, latest, targets, rows["timestamp"].long()])
    found, batches = [], 0
    for batch in loader:
        batches += 1
        before, after, moment = batch["item_id_list"], batch["next_item_id_list"], batch["next_timestamp_list"]
        length = batch["item_length"]
        assert before.shape[1] == length.max() <= 10
        assert torch.equal(before != 0, torch.arange(before.shape[1]) < length.unsqueeze(1))
        inner = (after[:, :-1] != 0) & (before[:, 1:] != 0)
        assert torch.equal(after[:, :-1][inner], before[:, 1:][inner])  # the next input is the target
        row, step = torch.nonzero(after, as_tuple=True)
        found.append(
            torch.stack([batch["user_id"][row], before[row, step], after[row, step], moment[row, step].long()])
        )
    found = torch.cat(found, dim=1)
    assert found.shape == expected.shape
    assert sorted(map(tuple, found.T.tolist())) == sorted(map(tuple, expected.T.tolist()))
    assert batches == len(loader) == -(-len(loader.users) // loader.step)


def test_the_past_is_that_of_recboles_rows():
    """With stride 1 every target has all of its history, as one of RecBole's rows."""
    loader, parts = loaders(window_stride=1, MAX_ITEM_LIST_LENGTH=6)
    rows = parts[0]._dataset.inter_feat.gathered()
    expected = sorted(
        (u, t, *h) for u, t, h in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), rows["item_id_list"].tolist())
    )
    found = []
    for batch in loader:
        wide = torch.nn.functional.pad(batch["item_id_list"], (0, 6 - batch["item_id_list"].shape[1]))
        for row, step in torch.nonzero(batch["next_item_id_list"]).tolist():
            past = wide[row].clone()
            past[step + 1 :] = 0
            found.append((int(batch["user_id"][row]), int(batch["next_item_id_list"][row, step]), *past.tolist()))
    assert sorted(found) == expected


def test_order_depends_on_the_generator_alone():
    first, again = (list(loaders(MAX_ITEM_LIST_LENGTH=8, seed=3)[0]) for _ in range(2))
    assert all(torch.equal(a["item_id_list"], b["item_id_list"]) for a, b in zip(first, again))
    loader = loaders(MAX_ITEM_LIST_LENGTH=8)[0]
    epochs = [torch.cat([batch["user_id"] for batch in loader]) for _ in range(2)]
    assert not torch.equal(*epochs) and torch.equal(*(epoch.sort().values for epoch in epochs))


def test_held_out_rows_never_come(tmp_path):
    lines = "".join(f"u{n // 8}\ti{n % 8}\t1\t{n}\n" for n in range(32))
    loader, parts = loaders("tiny", **write_tiny(tmp_path, f"{HEADER}\n{lines}"), MAX_ITEM_LIST_LENGTH=3)
    held_out = torch.cat([part._dataset.inter_feat[END] for part in parts[1:]])
    flat = loader.histories.flat
    forbidden = {(int(flat["user_id"][place]), int(flat["timestamp"][place])) for place in held_out}
    for batch in loader:
        for name in ("timestamp_list", "next_timestamp_list"):
            pairs = zip(batch["user_id"].tolist(), batch[name].tolist())
            assert not forbidden & {(user, int(time)) for user, times in pairs for time in times}


def test_mistakes_are_told():
    for changes, sentence in (
        ({"window_stride": 0}, "window_stride is 1 to MAX_ITEM_LIST_LENGTH"),
        ({"window_stride": 51}, "window_stride is 1 to MAX_ITEM_LIST_LENGTH"),
        ({"transform": "inverse_itemseq"}, "trains on windows"),
    ):
        with pytest.raises(UserError, match=sentence):
            loaders(**changes)
