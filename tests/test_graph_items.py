"""Data sets with a knowledge graph: which items stay, and links that do not fit."""

import pytest
from recbole.data import create_dataset, data_preparation

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.data.checks import checked_reading
from recbole_persona.errors import UserError
from recbole_persona.runs import RunFolder

ITEMS = [f"i{number}" for number in range(12)]
PARTS = ("train", "valid", "test")
SHORT = {
    "epochs": 1, "embedding_size": 8, "kg_embedding_size": 8, "topk": [3], "metrics": ["NDCG"], "valid_metric": "NDCG@3",
    "use_gpu": False,
}  # fmt: skip
BOTH = {"inter": "*", "kg": "*", "link": "*"}


def write(place, links, ready=False):
    """Six users, each with eight of twelve items; item n is entity n of the graph where ``links`` has it."""
    folder = place / "data/tiny"
    folder.mkdir(parents=True)
    rows = [f"u{user}\t{ITEMS[(user * 2 + step) % 12]}\t{step}" for user in range(6) for step in range(8)]

    def table(suffix, header, lines):
        (folder / f"tiny.{suffix}").write_text("\n".join([header, *lines]) + "\n")

    head = "user_id:token\titem_id:token\ttimestamp:float"
    for part in PARTS if ready else ():
        table(f"{part}.inter", head, [row for at, row in enumerate(rows) if PARTS[max(0, at % 8 - 5)] == part])
    if not ready:
        table("inter", head, rows)
    table("item", "item_id:token\tkind:token", [f"{item}\tk{at % 3}" for at, item in enumerate(ITEMS)])
    table("kg", "head_id:token\trelation_id:token\ttail_id:token", [f"e{n}\tr{n % 2}\tx{n % 3}" for n in range(12)])
    table("link", "item_id:token\tentity_id:token", ["\t".join(link) for link in links])
    return place / "data"


def dataset_of(data, load_col, **settings):
    values = {"data_path": str(data), "load_col": load_col, "gpu_id": "", "topk": [3], **settings}
    config = Config("CKE", "tiny", config_dict=values)
    with checked_reading(config):
        dataset = create_dataset(config)
        return dataset, data_preparation(config, dataset)


def linked(numbers):
    return [(f"i{number}", f"e{number}") for number in numbers]


def test_items_that_the_graph_removes_are_no_candidates(tmp_path):
    data, found = write(tmp_path, linked(range(10))), []
    for load_col in (BOTH, BOTH | {"item": "*"}):
        dataset, _ = dataset_of(data, load_col)
        found.append(set(dataset.field2id_token["item_id"]))
    assert found[0] == found[1] == {"[PAD]", *ITEMS[:10]}


def test_item_loaded_or_not_the_users_have_the_same_values(tmp_path):
    """Two of the twelve items have no link: as rows of ``.item`` they were candidates that nobody could choose."""
    data, tables = write(tmp_path, linked(range(10))), []
    for name, load_col in (("without", BOTH), ("with", BOTH | {"item": "*"})):
        settings = {"data_path": str(data), "load_col": load_col, "run_dir": str(tmp_path / name), **SHORT}
        result = run("CKE", "tiny", config_dict=settings)["result"]
        assert result["statistics"]["items"] == 10
        tables.append(RunFolder(tmp_path / name).per_user())
    assert len(tables[0]) == 6 and tables[0].equals(tables[1])


@pytest.mark.parametrize("ready", [False, True], ids=["one file", "ready-made parts"])
@pytest.mark.parametrize(
    "suffix, fault, sentence",
    [
        ("kg", ("e3\t", '"e3\t'), r"tiny\.kg, line 5: the head_id begins with a quote .* inside doubled\)\.$"),
        ("kg", ("\tx2\n", "\tx\t2\n"), r"tiny\.kg, line 4: 4 cells, and the header has 3"),
        ("link", ("\te4\n", '\t"e4\n'), r"tiny\.link, line 6: the entity_id begins with a quote .* doubled\)\.$"),
        ("link", ("i4\t", "i4"), r"tiny\.link, line 6: 1 cells, and the header has 2"),
        ("inter", ("i3\t", '"i3\t'), r"tiny(\.train)?\.inter, line \d+: the item_id begins with a quote"),
        ("inter", ("i3\t", "i\t3\t"), r"tiny(\.train)?\.inter, line \d+: 4 cells, and the header has 3"),
    ],
)
def test_a_row_that_would_be_lost_is_named(tmp_path, suffix, fault, sentence, ready):
    data = write(tmp_path, linked(range(12)), ready=ready)
    file = data / f"tiny/tiny.{'train.inter' if ready and suffix == 'inter' else suffix}"
    text = file.read_text()
    assert fault[0] in text
    file.write_text(text.replace(*fault, 1))
    with pytest.raises(UserError, match=sentence):
        dataset_of(data, BOTH, benchmark_filename=list(PARTS) if ready else None)


@pytest.mark.parametrize("part", PARTS)
def test_a_row_that_a_ready_made_part_would_lose_is_named(tmp_path, part):
    data = write(tmp_path, linked(range(12)), ready=True)
    file = data / f"tiny/tiny.{part}.inter"
    lines = file.read_text().splitlines()
    lines[3] = lines[3].replace("\ti", '\t"i')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"tiny\.{part}\.inter, line 4: the item_id begins with a quote"):
        dataset_of(data, BOTH, benchmark_filename=list(PARTS))


def test_ready_made_splits_with_a_link_to_no_item(tmp_path):
    data = write(tmp_path, [*linked(range(12)), ("i77", "e77"), ("i78", "x0")], ready=True)
    dataset, (train, *_) = dataset_of(data, BOTH, benchmark_filename=list(PARTS))
    assert dataset.item_num == 13 and set(dataset.item2entity) == set(ITEMS)
    assert len(train._dataset) == 36


@pytest.mark.parametrize(
    "links, sentence",
    [
        ([*linked(range(12)), ("i3", "e2")], "'entity_id' of tiny.link has .* an entity belongs to one item"),
        (
            [(f"i{n}", f"z{n}") for n in range(12)],
            "leaves no interaction: none of its 12 links .* 12 items .* 15 entities",
        ),
    ],
    ids=["two items", "no entity"],
)
def test_links_that_do_not_fit(tmp_path, links, sentence):
    with pytest.raises(UserError, match=sentence):
        dataset_of(write(tmp_path, links), BOTH)


def test_candidates_without_an_interaction_are_counted(tmp_path, caplog):
    data = write(tmp_path, linked(range(12)))
    with (data / "tiny/tiny.item").open("a") as file:
        file.write("i98\tk1\ni99\tk2\n")
    config = {"data_path": str(data), "load_col": {"inter": "*", "item": "*"}, "gpu_id": "", "topk": [3]}
    config = Config("BPR", "tiny", config_dict=config)
    with caplog.at_level("INFO"), checked_reading(config):
        assert create_dataset(config).item_num == 15
    assert caplog.text.count("2 of the 14 candidate items have no interaction (i98, i99).") == 1
    assert caplog.text.count("i98") == 1  # one line tells of them, not two
