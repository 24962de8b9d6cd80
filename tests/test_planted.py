"""The generator of planted personas, and the data set that ships."""

import csv
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset

from recbole_persona.config import Config, shipped
from recbole_persona.data import planted
from recbole_persona.errors import UserError

NAME = "planted-personas"
SHIPPED = shipped("dataset") / NAME


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


@settings(max_examples=25, deadline=None)
@given(
    n_users=st.integers(1, 60),
    mean=st.integers(1, 30),
    n_tastes=st.integers(4, 9),
    seed=st.integers(0, 2**31),
)
def test_every_draw_is_new_to_the_user_and_of_one_of_their_tastes(n_users, mean, n_tastes, seed):
    n_interactions = n_users * mean
    data = planted.generate(n_interactions, n_users, n_tastes * (3 * mean + 30), n_tastes, seed)
    drawn = data.interactions
    assert len(drawn) == n_interactions
    assert len({(row["user"], row["item"]) for row in drawn}) == n_interactions
    assert (data.user_tastes[drawn["user"], drawn["taste"]] > 0).all()
    assert (data.item_tastes[drawn["item"]] == drawn["taste"]).all()
    assert np.allclose(data.user_tastes.sum(axis=1), 1)
    assert set((data.user_tastes > 0).sum(axis=1)) <= {1, 2, 3, 4}
    counts = np.bincount(drawn["user"], minlength=n_users)
    assert counts.min() >= int(0.8 * mean)
    assert (drawn["position"] == np.concatenate([np.arange(count) for count in counts])).all()


def test_the_same_seed_gives_the_same_data_and_another_seed_others():
    first, again, other = (planted.generate(2000, 40, 600, 5, seed).interactions for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_blocks_are_what_the_whole_is(monkeypatch):
    monkeypatch.setattr(planted, "BLOCK", 16)
    blocks = list(planted.chunks(2000, 40, 600, 5, seed=1))
    whole = planted.generate(2000, 40, 600, 5, seed=1)
    assert [block.first_user for block in blocks] == [0, 16, 32]
    assert (np.concatenate([block.interactions for block in blocks]) == whole.interactions).all()
    assert (np.concatenate([block.user_tastes for block in blocks]) == whole.user_tastes).all()


def test_shares_and_popularity_are_those_of_the_recipe():
    data = planted.generate(400_000, 20_000, 10_000, 5, seed=3)
    how_many = np.bincount((data.user_tastes > 0).sum(axis=1), minlength=5)[1:] / 20_000
    assert np.allclose(how_many, planted.NUMBER_OF_TASTES, atol=0.02)
    drawn = np.zeros_like(data.user_tastes)
    np.add.at(drawn, (data.interactions["user"], data.interactions["taste"]), 1)
    drawn /= drawn.sum(axis=1, keepdims=True)
    assert abs((drawn - data.user_tastes)[data.user_tastes > 0].mean()) < 0.005
    counts = np.sort(np.bincount(data.interactions["item"])[data.item_tastes[:10_000] == 0])[::-1]
    assert counts[:20].sum() > 3 * counts[100:120].sum() > 3 * counts[1000:1020].sum()


@pytest.mark.parametrize("numbers", [(100, 10, 100, 3), (100, 0, 100, 5), (5, 10, 100, 5), (1000, 10, 100, 5)], ids=str)
def test_numbers_that_cannot_be_met_are_refused(numbers, tmp_path):
    with pytest.raises(UserError):
        planted.generate(*numbers, seed=1)
    with pytest.raises(UserError):
        planted.write(tmp_path, "x", *numbers, seed=1)
    assert not list(tmp_path.rglob("*"))


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, capsys):
    assert planted.main([f"--out={tmp_path}", "--tastes=2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_shipped_files_are_what_the_command_in_their_readme_writes(tmp_path):
    command = re.search(r"python -m recbole_persona\.data\.planted (.*)", (SHIPPED / "README.md").read_text())[1]
    arguments = [f"--out={tmp_path}" if given.startswith("--out=") else given for given in shlex.split(command)]
    assert planted.main(arguments) == 0
    made = sorted(path.name for path in (tmp_path / NAME).iterdir())
    assert made == sorted(path.name for path in SHIPPED.iterdir() if path.name != "README.md")
    for name in made:
        assert (tmp_path / NAME / name).read_bytes() == (SHIPPED / name).read_bytes(), name


def test_the_truth_belongs_to_the_interactions():
    truth, inter = rows(SHIPPED / "truth_interactions.tsv"), rows(SHIPPED / f"{NAME}.inter")
    assert [row[:2] for row in truth] == [row[:2] for row in inter]
    taste_of_item = dict(rows(SHIPPED / "truth_items.tsv"))
    tastes_of_user = Counter((user, taste) for user, taste, _ in rows(SHIPPED / "truth_users.tsv"))
    assert all(taste_of_item[item] == taste and (user, taste) in tastes_of_user for user, item, taste in truth)
    assert min(Counter(user for user, *_ in inter).values()) >= 40
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3e6


def test_recbole_loads_the_ids_and_nothing_of_the_truth():
    dataset = create_dataset(Config("BPR", NAME, config_dict={"state": "ERROR"}))
    assert set(dataset.field2type) == {"user_id", "item_id", "timestamp"}
    assert (dataset.user_num, dataset.item_num, dataset.inter_num) == (801, 1001, 44_000)
    assert Path(dataset.dataset_path).name == NAME


def test_names_and_classes_load_when_they_are_asked_for():
    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "title", "class"], "user": ["user_id", "name"]}
    dataset = create_dataset(Config("BPR", NAME, config_dict={"state": "ERROR", "load_col": columns}))
    assert dataset.num("title") == 1001 and dataset.num("class") == 11 and dataset.num("name") == 801
