"""POD and PeaPOD: prompts and losses against slow ways, lists of items, and what the context depends on."""

import pytest
import torch
import upstream_models
from recbole.data.interaction import Interaction
from small_pod import epoch_losses, held_out, slow_scores, small_pod

from recbole_persona.config import Config
from recbole_persona.data.histories import SEEN
from recbole_persona.data.training_part import training_interactions
from recbole_persona.errors import UserError
from recbole_persona.evaluate.collector import Collector
from recbole_persona.lm.backbone import IGNORED, token_loss
from recbole_persona.lm.item_codes import in_order_of_users
from recbole_persona.lm.task_batches import CANDIDATES, TASK

torch.set_num_threads(1)
EVAL = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
BACKBONES = ["scratch:t5-tiny", "scratch:tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("codes", ["semantic", "collaborative"])
@pytest.mark.parametrize("name", ["POD", "PeaPOD"])
@torch.no_grad()
def test_scores_are_likelihoods_of_codes(data, name, backbone, codes):
    model, loaders = small_pod(data, name, backbone=backbone, item_codes=codes, rank_by="score")
    rows = held_out(loaders, 3)
    expected = slow_scores(model, rows)
    torch.testing.assert_close(model.full_sort_predict(rows).view(3, -1), expected)
    torch.testing.assert_close(model.predict(rows), expected[torch.arange(3), rows["item_id"]])
    model.rank_by, model.n_beams = "beams", model.n_items - 1
    torch.testing.assert_close(model.full_sort_predict(rows).view(3, -1), expected)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_items_of_the_history_have_vectors_of_their_own(data, backbone):
    model, loaders = small_pod(data, backbone=backbone, item_vectors=True, rank_by="score")
    rows = held_out(loaders, 3)
    plain = slow_scores(model, rows)
    torch.testing.assert_close(model.full_sort_predict(rows).view(3, -1), plain)  # nothing is known of them at first
    model.item_embedding.weight[1:].normal_()
    expected = slow_scores(model, rows)
    assert not torch.allclose(expected[:, 1:], plain[:, 1:])
    torch.testing.assert_close(model.full_sort_predict(rows).view(3, -1), expected)


@torch.no_grad()
def test_beams_leave_out_what_the_user_has_seen(data):
    """All of it, though a prompt holds three items; and so they are as many as there are beams."""
    model, loaders = small_pod(data, mask_history=True, MAX_ITEM_LIST_LENGTH=3)
    rows, (place, item), *_ = next(iter(loaders[2]))
    scores = model.full_sort_predict(rows).view(len(rows), -1)
    assert len(item) > 6 * len(rows) and scores[place, item].isinf().all()
    assert (scores.isfinite().sum(dim=1) == 7).all()
    model.rank_by = "score"
    expected = model.full_sort_predict(rows).view(len(rows), -1)
    expected[place, item] = -torch.inf
    found = scores.isfinite()
    torch.testing.assert_close(scores[found], expected[found])
    again = rows[SEEN].clone()
    again[:, 0] = 0
    model.rank_by, rows[SEEN] = "beams", again
    assert (model.full_sort_predict(rows).view(len(rows), -1).isfinite().sum(dim=1) == 7).all()


def test_what_beams_do_not_find_is_no_hit(data):
    """A list of two beams has ten places, and RecBole's own list of hits goes by the places alone."""
    settings = {"metrics": ["Hit"], "topk": [10], "valid_metric": "Hit@10", "data_path": str(data.parent)}
    config = Config("POD", "tiny", config_dict=settings)
    scores = torch.full((3, 41), -torch.inf)
    scores[:, [5, 7]] = torch.tensor([-1.0, -2.0])
    collector = Collector(config)
    targets = torch.tensor([7, 1, 9])
    collector.eval_batch_collect(scores, Interaction({"user_id": torch.arange(3)}), torch.arange(3), targets)
    lists = collector.get_data_struct()["rec.topk"]
    assert lists[:, :-1].sum(dim=1).tolist() == [1, 0, 0] and lists[:, -1].tolist() == [1, 1, 1]


def test_weights_go_with_the_codes_that_they_were_trained_on(data):
    state = small_pod(data)[0].state_dict()
    small_pod(data)[0].load_state_dict(state)
    with pytest.raises(UserError, match="other codes of items"):
        small_pod(data, item_codes="random")[0].load_state_dict(state)


def test_choices_are_among_items_that_the_user_has_never_chosen(data):
    """A user's first item is no row's target, and no negative."""
    _, loaders = small_pod(data, tasks=["sequential", "topn"], rows_of_a_user={}, n_candidates=20)
    users, items = training_interactions(loaders[0]._dataset, "user_id", "item_id")
    chosen = set(zip(users.tolist(), items.tolist()))
    assert len(items) > len(loaders[0]._dataset.inter_feat)
    rows = [batch for batch in loaders[0] if CANDIDATES in batch]
    for user, target, candidates in zip(*(torch.cat([b[n] for b in rows]) for n in ("user_id", "item_id", CANDIDATES))):
        mine = [(int(user), item) for item in candidates.tolist() if (int(user), item) in chosen]
        assert mine == [(int(user), int(target))]


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.8, 0.1, 0.1]}])
def test_items_are_numbered_as_the_training_part_met_them(data, split):
    _, loaders = small_pod(data, eval_args=EVAL | {"split": split, "mode": "full"})
    dataset, expected = loaders[0]._dataset, []
    feat = dataset.inter_feat
    for user in range(1, dataset.user_num):
        mine = [row for row in range(len(feat)) if feat["user_id"][row] == user]
        firsts = [feat["item_id_list"][row, 0].item() for row in mine if feat["item_length"][row] == 1]
        expected += firsts + feat["item_id"][mine].tolist()
    assert in_order_of_users(dataset).tolist() == expected


def test_somebody_who_chose_everything_has_no_negatives(data, tmp_path):
    lines = [f"u1\ti{item}\t3\t{item}" for item in range(5)] + [f"u2\ti{item}\t3\t{item}" for item in range(5)]
    lines += [f"u{user}\ti{item}\t3\t{item}" for user in (3, 4) for item in range(4)]
    lines += [f"u1\ti{item}\t3\t{item + 9}" for item in range(2)]
    folder = tmp_path / "tiny"
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "tiny.inter").write_text("\n".join([head, *lines]))
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    with pytest.raises(UserError, match="No item is left to be a negative for user 'u1'"):
        small_pod(folder, "POD", tasks=["sequential", "topn"], load_col=columns, n_candidates=3, n_beams=2)


@torch.no_grad()
def test_candidates_are_named_in_the_prompt(data):
    model, loaders = small_pod(data, tasks=["topn"], eval_args=EVAL | {"mode": "uni5"})
    rows = held_out(loaders, 4)
    items = torch.stack([torch.randperm(model.n_items - 1)[:5] + 1 for _ in range(4)])
    scores = model.score_candidates(rows, items)
    turned = model.score_candidates(held_out(loaders, 4), items.flip(1))
    torch.testing.assert_close(scores, turned.flip(1))  # the order that they come in says nothing
    rows[CANDIDATES] = items.sort(dim=1).values
    torch.testing.assert_close(scores, slow_scores(model, rows, "topn").gather(1, items))


# Losses


def test_the_loss_is_the_mean_over_the_tokens_of_the_answers(data):
    for backbone in BACKBONES:
        model, loaders = small_pod(data, backbone=backbone, every_prefix=False)
        rows = next(iter(loaders[0]))[:5]
        expected = slow_scores(model, rows)[torch.arange(5), rows["item_id"]]
        lengths = model.answers.lengths[rows["item_id"]]
        assert model.calculate_loss(rows).item() == pytest.approx(-expected.sum().item() / lengths.sum().item())


def test_padding_can_be_part_of_the_loss(data):
    """As POD has it: of every row as many tokens count as the longest answer has."""
    settings = {"backbone": "scratch:t5-tiny", "item_codes": "title", "code_field": "class"}
    plain, loaders = small_pod(data, **settings)
    model, _ = small_pod(data, padding_in_loss=True, **settings)
    rows = next(iter(loaders[0]))
    lengths = model.answers.lengths[rows["item_id"]]
    even = rows[lengths == lengths[0]]
    torch.testing.assert_close(model.calculate_loss(even), plain.calculate_loss(even))
    assert len(lengths.unique()) > 1 and model.calculate_loss(rows) != plain.calculate_loss(rows)


@pytest.mark.parametrize(
    "asked",
    [{"item_vectors": False}, {"item_vectors": True}, {"templates": {"sequential": ["{user} chose {history}"]}}],
)
def test_every_prefix_is_asked_for_in_one_pass(data, asked):
    """The windows' loss is that of all rows, each with its own prompt: no item's vector tells its own code."""
    settings = {"backbone": "scratch:tiny", "whole_words": False, "train_batch_size": 10_000, **asked}
    windows, loaders = small_pod(data, every_prefix=True, **settings)
    if windows.item_embedding is not None:
        torch.nn.init.normal_(windows.item_embedding.weight[1:])
    model, of_rows = small_pod(data, every_prefix=False, **settings)
    model.load_state_dict(windows.state_dict())
    (batch,), (rows,) = loaders[0], of_rows[0]
    assert int((batch["next_item_id_list"] > 0).sum()) == len(rows)
    torch.testing.assert_close(windows.calculate_loss(batch), model.calculate_loss(rows))


def test_tasks_take_turns_in_batches_of_their_own(data):
    model, loaders = small_pod(data, tasks=["sequential", "topn"], every_prefix=False)
    seen = {0: 0, 1: 0}
    for batch in loaders[0]:
        (task,) = batch[TASK].unique().tolist()
        seen[task] += len(batch)
        assert (CANDIDATES in batch) == (task == 1)
        if task == 1:
            assert (batch[CANDIDATES] == batch["item_id"].unsqueeze(1)).sum(dim=1).eq(1).all()
        assert model.calculate_loss(batch).isfinite()
    users = loaders[0]._dataset.inter_feat["user_id"]
    assert seen == {0: len(users), 1: len(users.unique())}


def test_so_many_rows_of_each_user_in_an_epoch(data):
    _, loaders = small_pod(data, every_prefix=False, rows_of_a_user={"sequential": 3})
    (loader,) = loaders[0].tasks
    counts = loader.users.bincount()
    for _ in range(2):
        batches = list(loaders[0])
        assert len(batches) == len(loaders[0])
        drawn = torch.cat([batch["user_id"] for batch in batches])
        assert torch.equal(drawn.bincount(), counts.clamp(max=3))
        assert len(loader.drawn.unique()) == len(drawn)
    other = loader.drawn
    next(iter(loader))
    assert not torch.equal(loader.drawn.sort().values, other.sort().values)


def test_a_prompt_that_does_not_end_with_the_history_is_written_for_every_row(data):
    for template in ("{history} then", "{history} {history.class}"):
        model, loaders = small_pod(data, templates={"sequential": [template]}, every_prefix=None)
        assert not model.every_prefix and model.calculate_loss(next(iter(loaders[0]))).isfinite()


def test_losses_fall(data):
    for backbone in BACKBONES:
        model, loaders = small_pod(data, backbone=backbone, every_prefix=None)
        means = epoch_losses(model, loaders[0], 3e-3)
        assert means[-1] < 0.8 * means[0]


def test_ignored_labels_have_no_part_in_the_loss():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED, IGNORED, 0]])
    picked = [-logits[r, t].log_softmax(0)[labels[r, t]] for r, t in ((0, 0), (0, 2), (1, 2))]
    torch.testing.assert_close(token_loss(logits, labels), torch.stack(picked).mean())


# Mistakes


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"backbone": "no/such-model"}, "neither a folder with a config.json that can be read nor in the cache"),
        ({"backbone": "scratch:huge"}, "A backbone from scratch is"),
        ({"adapt": "lora"}, "has learned nothing yet"),
        ({"tasks": ["chat"]}, "tasks is a list of some of"),
        ({"tasks": ["explanation"]}, "no column of .* is named 'explanation'"),
        ({"templates": {"topn": ["{history}"]}}, "none of the tasks"),
        ({"templates": {"sequential": [" "]}}, "templates of sequential is a list of texts"),
        ({"templates": {"sequential": "{history}"}}, "templates of sequential is a list of texts"),
        ({"templates": {"sequential": ["word " * 1100 + "{history}"]}}, "and the backbone reads 1024"),
        (
            {"templates": {"sequential": ["{history.title}"]}},
            "A template names {history.title}, and .*tiny.item has no column 'title'; it has",
        ),
        ({"templates": {"sequential": ["{history} before {item.class}"]}}, "names {item}, which is the answer"),
        ({"templates": {"sequential": ["{history} {candidates}"]}}, "which topn alone has"),
        ({"templates": ["{history}"]}, "templates gives tasks their texts"),
        (
            {"every_prefix": True, "templates": {"sequential": ["{history} then"]}},
            "that end with the codes of {history}",
        ),
        ({"every_prefix": True, "templates": {"sequential": ["{history.class} {history}"]}}, "that end with the codes"),
        ({"every_prefix": True, "backbone": "scratch:t5-tiny"}, "needs a causal backbone"),
        ({"item_codes": "alphabetical"}, "item_codes is one of"),
        ({"rank_by": "chance"}, "rank_by is one of"),
        ({"n_beams": 1000}, "more beams|items"),
        ({"rows_of_a_user": {"topn": 0}}, "rows_of_a_user gives tasks a whole number"),
        ({"rows_of_a_user": 1}, "rows_of_a_user gives tasks a number"),
        ({"n_beams": 0}, "n_beams must be a whole number of at least 1"),
        ({"text_beams": 2.0}, "text_beams must be a whole number"),
        ({"longest_answer": 0}, "longest_answer must be a whole number"),
        ({"n_candidates": 5.0}, "n_candidates must be a whole number of at least 2"),
        ({"backbone": None}, "backbone must be a name"),
        ({"backbone_dropout": None}, "backbone_dropout is a share"),
        ({"templates": {"sequential": ["{history.}"]}}, "a template knows"),
        ({"templates": {"sequential": ["{} {history}"]}}, "a brace that names nothing"),
        ({"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, "takes no negatives"),
        ({"tasks": ["topn"]}, "rank all items, and tasks"),
        ({"metrics": ["NDCG", "RMSE"]}, "RMSE compares scores with ratings"),
        ({"attn_implementation": "some"}, "attn_implementation: "),
        ({"dtype": "float17"}, "dtype is one of torch's"),
        ({"task_tokens": -1}, "task_tokens must be a whole number of at least 0"),
        ({"padding_in_loss": True}, "has an encoder and a decoder"),
        ({"code_field": "class", "item_codes": "random"}, "code_field is read by"),
        ({"code_levels": 0}, "code_levels must be a whole number of at least 1"),
        ({"own_symbols": True, "item_codes": "random"}, "own_symbols is read by"),
        (
            {"item_codes": "title"},
            "code_field names 'title', and .*tiny.item has no column 'title'; it has",
        ),
        ({"task_schedule": "random"}, "task_schedule is one of"),
    ],
)
def test_a_mistake_is_one_sentence(data, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        model, loaders = small_pod(data, **settings)
        model.full_sort_predict(held_out(loaders))
