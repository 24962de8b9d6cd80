"""Which items compete: seen items masked or not, negatives drawn once; against slow versions over the raw interactions."""

import json

import numpy as np
import pytest
import torch
from evaluate_data import Personas, SequentialPersonas, prepared
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
from sklearn.metrics import log_loss, roc_auc_score
from tiny import HEADER, refused, write_tiny

from recbole_persona import run
from recbole_persona.errors import UserError
from recbole_persona.evaluate import candidates, full_ranking
from recbole_persona.evaluate.negatives import chances
from recbole_persona.runner.training import protocol

USERS, ITEMS, LONGEST = 30, 25, 4
LEAVE_ONE = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
RATIO = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "mode": "full"}
RECBOLES = {"train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8, "embedding_size": 8, "n_layers": 1}
SPLITS = pytest.mark.parametrize("eval_args", [LEAVE_ONE, RATIO], ids=["leave one out", "ratio"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Users who take items again, two interactions at every time, histories longer than the longest list."""
    rng = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for user in range(USERS):
        for time, item in enumerate(rng.integers(ITEMS, size=rng.integers(5, 14))):
            rows.append(f"u{user}\ti{item}\t{time // 2 + 1}")
    order = rng.permutation(len(rows))
    order = order[np.argsort([int(rows[n].split("\t")[2]) for n in order], kind="stable")]
    (folder / "again").mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "again/again.inter").write_text("\n".join([header, *(rows[n] for n in order)]))
    return folder


def made(model, place, **settings):
    settings = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": LONGEST} | settings
    return prepared(model, place, dataset="again", valid_metric="NDCG@3", metrics=["NDCG", "Hit"], **settings)


def raw(dataset, place):
    """{user: [items in order]}, internal ids, from the file."""
    found = {}
    for line in (place / "again/again.inter").read_text().splitlines()[1:]:
        user, item, time = line.split("\t")
        found.setdefault(dataset.token2id("user_id", user), []).append((float(time), dataset.token2id("item_id", item)))
    return {user: [item for _, item in sorted(rows, key=lambda row: row[0])] for user, rows in found.items()}


def targets(histories, dataset, phase, eval_args):
    """{(user, place of the target)} of a part of a sequential data set: every interaction but the first is a target."""
    found = set()
    for user, items in histories.items():
        if "LS" in eval_args["split"]:
            found.add((user, len(items) - (1 if phase == "test" else 2)))
            continue
        first, second = dataset._calcu_split_ids(len(items) - 1, eval_args["split"]["RS"])
        places = range(1 + second, len(items)) if phase == "test" else range(1 + first, 1 + second)
        found.update((user, place) for place in places)
    return found


def masked(loader):
    """The masked items of every case, in the loader's order."""
    found = []
    for rows, history, *_ in loader:
        cases = [set() for _ in range(len(rows))]
        for case, item in zip(*(part.tolist() for part in history)):
            cases[case].add(item)
        found += cases
    return found


@SPLITS
@pytest.mark.parametrize("phase", ["valid", "test"])
def test_sequential_models_with_seen_items_masked(place, eval_args, phase):
    """All that stands before the target, also what the model no longer reads; the target, taken before, stays."""
    _, _, valid, test, *_ = made(SequentialPersonas, place, eval_args=eval_args, mask_history=True, eval_batch_size=7)
    loader = {"valid": valid, "test": test}[phase]
    histories = raw(loader._dataset, place)
    rows = loader._dataset.inter_feat
    wanted, again = {}, 0
    for user, at in targets(histories, loader._dataset, phase, eval_args):
        items = histories[user]
        wanted.setdefault((user, items[at]), []).append(set(items[:at]) - {items[at]})
        again += items[at] in items[:at]
    found = {}
    for user, item, seen in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), masked(loader)):
        found.setdefault((user, item), []).append(seen)
    assert again and max(len(seen) for cases in wanted.values() for seen in cases) > LONGEST
    assert found.keys() == wanted.keys()
    assert all(sorted(map(sorted, found[key])) == sorted(map(sorted, wanted[key])) for key in wanted)


def test_a_batch_of_a_sequential_model_holds_so_many_scores_at_most(place, monkeypatch):
    """RecBole counts rows there, so that memory would grow with the catalogue."""
    monkeypatch.setattr(full_ranking, "SCORES", 100)
    *_, test, _, _ = made(SequentialPersonas, place, eval_args=LEAVE_ONE, eval_batch_size=10**6)
    sizes = [len(rows) for rows, *_ in test]
    assert max(sizes) == 100 // test._dataset.item_num and sum(sizes) == len(test._dataset)


@SPLITS
def test_general_models_mask_as_recbole_does(place, eval_args):
    config, _, valid, test, *_ = made(Personas, place, eval_args=eval_args, eval_batch_size=120)
    for loader in (valid, test):
        theirs = FullSortEvalDataLoader(config, loader._dataset, loader._sampler)
        assert masked(loader) == masked(theirs) == [set(loader.uid2history_item[u].tolist()) for u in loader.uid_list]
        for ours, batch in zip(loader, theirs):
            assert torch.equal(ours[0]["user_id"], batch[0]["user_id"])
            assert set(zip(*(p.tolist() for p in ours[2:]))) == set(zip(*(p.tolist() for p in batch[2:])))


def test_general_models_without_masks(place):
    *_, test, _, trainer = made(Personas, place, eval_args=RATIO, mask_history=False)
    assert all(batch[1] is None for batch in test)
    assert all(len(test.uid2history_item[user]) == 0 for user in test.uid_list)
    net = trainer.model
    values = []
    for user in test.uid_list.tolist():
        scores = net.full_sort_predict({"user_id": torch.tensor([user])})[0]
        values.append(any(hits(scores, [], item, 3) for item in test.uid2positive_item[user].tolist()))
    assert trainer.evaluate(test, load_best_model=False)["hit@3"] == pytest.approx(np.mean(values), abs=0.51e-4)


def hits(scores, seen, target, k):
    scores = scores.clone()
    scores[[0, *seen]] = -torch.inf
    return target in torch.topk(scores, k).indices.tolist()


@pytest.mark.parametrize("model", ["GRU4Rec", "SASRec"])
@SPLITS
def test_recboles_sequential_models(place, model, eval_args):
    settings, found = RECBOLES | {"num_layers": 1}, {}
    for mask in (None, False, True):
        config, *_, test, net, trainer = made(model, place, eval_args=eval_args, mask_history=mask, **settings)
        found[mask] = trainer.evaluate(test, load_best_model=False)
        assert protocol(config)["seen_items_masked"] is (mask is True)
    assert found[None] == found[False] != found[True]
    net.eval()
    rows = test._dataset[slice(None)]
    scores = net.full_sort_predict(rows)
    values = [hits(s, seen, t, 3) for s, seen, t in zip(scores, masked(test), rows["item_id"].tolist())]
    assert found[True]["hit@3"] == pytest.approx(np.mean(values), abs=0.51e-4)


# --- sampled negatives


def drawn(loader):
    """{(user, target): negatives}"""
    list(loader)
    rows = loader._dataset.inter_feat
    return dict(zip(zip(rows["user_id"].tolist(), rows["item_id"].tolist()), map(tuple, loader.negatives.tolist())))


def sampled(eval_args, mode):
    return {**eval_args, "mode": mode}


@pytest.mark.parametrize("model", [SequentialPersonas, Personas])
@pytest.mark.parametrize("mask", [None, False, True])
@SPLITS
def test_what_is_no_negative(place, model, mask, eval_args):
    config, *_, test, _, _ = made(model, place, eval_args=sampled(eval_args, "uni40"), mask_history=mask)
    dataset, histories = test._dataset, raw(test._dataset, place)
    sequential = model is SequentialPersonas
    own = {}
    for user, item in zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist()):
        own.setdefault(user, set()).add(item)
    for (user, target), negatives in drawn(test).items():
        never = {target} if mask is None and sequential else own[user] if mask is False else set(histories[user])
        assert set(negatives) <= set(range(1, dataset.item_num)) - never
        if len(never) < 8:
            assert len(set(negatives)) > 10  # and all else is drawn
    said = protocol(config)["negatives"]
    assert said["number"] == 40 and said["seed"] == config["split_seed"] and said["distribution"] == "uniform"
    assert ("itself" in said["excluded"]) == (mask is None and sequential) and protocol(config)["mode"] == "uni40"


@pytest.mark.parametrize("mask, model", [(None, SequentialPersonas), (True, SequentialPersonas), (None, Personas)])
@pytest.mark.parametrize("mode", ["uni500", "pop500"])
def test_how_often_an_item_is_drawn(place, mask, model, mode):
    """Evenly, or as often as it occurs in training (and not beyond), among what is left of all items."""
    *_, test, _, _ = made(model, place, eval_args=sampled(LEAVE_ONE, mode), mask_history=mask)
    dataset, histories = test._dataset, raw(test._dataset, place)
    counts = np.zeros(dataset.item_num)
    for items in histories.values():
        np.add.at(counts, items[:-2], 1)  # training
    weights = counts if mode == "pop500" else np.ones(dataset.item_num)
    weights[0] = 0
    expected, found = np.zeros(dataset.item_num), np.zeros(dataset.item_num)
    for (user, target), negatives in drawn(test).items():
        left = weights.copy()
        left[[target] if mask is None and model is SequentialPersonas else list({*histories[user]})] = 0
        expected += 500 * left / left.sum()
        np.add.at(found, list(negatives), 1)
    assert found.sum() == 500 * USERS and not found[expected == 0].any()
    inside = expected > 0
    chi_square = ((found - expected)[inside] ** 2 / expected[inside]).sum()
    assert chi_square < 2.5 * inside.sum()  # its mean is at most the number of items


def test_the_same_negatives_whatever_else(place):
    settings = {"eval_args": sampled(LEAVE_ONE, "uni20"), "mask_history": True}
    *_, valid, test, _, _ = made(SequentialPersonas, place, **settings)
    np.random.seed(3)
    torch.manual_seed(3)
    first = drawn(test)
    assert drawn(test) == first  # a second evaluation
    assert (np.random.get_state()[1] == np.random.RandomState(3).get_state()[1]).all()
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(3).get_state())  # nothing was taken from the process
    for change in ({"seed": 5}, {"eval_batch_size": 50}, {"MAX_ITEM_LIST_LENGTH": 9}):
        assert drawn(made(SequentialPersonas, place, **settings, **change)[3]) == first
    assert drawn(made(Personas, place, **settings)[3]) == first  # a general model on the same split
    assert drawn(valid) != first and drawn(made(SequentialPersonas, place, **settings, split_seed=1)[3]) != first
    assert test.negatives.dtype == torch.int32


@pytest.mark.parametrize("model", [SequentialPersonas, "GRU4Rec"])
def test_scores_are_equal_bit_for_bit(place, model):
    *_, test, _, trainer = made(model, place, eval_args=sampled(RATIO, "uni20"), train_neg_sample_args=None)
    gathered = []
    for _ in range(2):
        trainer.evaluate(test, load_best_model=False)
        gathered.append([trainer._neg_sample_batch_eval(batch)[1] for batch in test])
    assert all(torch.equal(*pair) for pair in zip(*gathered))


class Given:
    """Stands where RecBole's sampler stands, and gives negatives that were drawn before."""

    distribution, phase = "uniform", "test"

    def __init__(self, negatives):
        self.negatives, self.at = negatives, 0

    def sample_by_user_ids(self, users, items, number):
        rows = self.negatives[self.at : self.at + len(users)].long()
        self.at += len(users)
        return rows.T.reshape(-1)


@pytest.mark.parametrize("model", [SequentialPersonas, Personas])
@SPLITS
def test_batches_are_recboles(place, model, eval_args):
    """With the same negatives RecBole's own loader gives the same batches, column by column."""
    config, *_, test, _, _ = made(model, place, eval_args=sampled(eval_args, "uni6"), eval_batch_size=90)
    ours = list(test)
    theirs = list(NegSampleEvalDataLoader(config, test._dataset, Given(test.negatives)))
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs):
        assert set(a[0].interaction) == set(b[0].interaction)
        assert all(torch.equal(a[0][name], b[0][name]) for name in a[0].interaction)
        assert all(torch.equal(x, y) for x, y in zip(a[1:], b[1:]))


@pytest.mark.parametrize("model", [SequentialPersonas, Personas])
@SPLITS
def test_auc_gauc_and_logloss(place, model, eval_args):
    """Against scikit-learn, row by row."""

    class Likely(model):
        def predict(self, interaction):
            return torch.sigmoid(super().predict(interaction) / 8)  # none so sure that 32 bits say 1

    eval_args = sampled(eval_args, "uni15")
    settings = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": LONGEST}
    metrics = {"metrics": ["GAUC", "AUC", "LogLoss"], "valid_metric": "AUC"}
    *_, test, net, trainer = prepared(Likely, place, dataset="again", eval_args=eval_args, **settings, **metrics)
    result = trainer.evaluate(test, load_best_model=False)
    scores, labels, by_user = [], [], {}
    for batch, *_ in test:
        for user, item, score, label in zip(
            batch["user_id"].tolist(), batch["item_id"].tolist(), net.predict(batch).tolist(), batch["label"].tolist()
        ):
            scores.append(score)
            labels.append(label)
            by_user.setdefault(user, {})[item] = (score, label)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=0.51e-4)
    assert result["logloss"] == pytest.approx(log_loss(labels, scores), abs=0.51e-4)
    if "LS" in eval_args["split"] or model is Personas:  # one history, so one score, for every user and item
        own = {}
        for user, item in zip(*(test._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id"))):
            own.setdefault(user, set()).add(item)
        values, weights = [], []
        for user, items in by_user.items():
            relevant = [item in own[user] for item in items]
            values.append(roc_auc_score(relevant, [score for score, _ in items.values()]))
            weights.append(sum(relevant))
        assert result["gauc"] == pytest.approx(np.average(values, weights=weights), abs=0.51e-4)


def test_gauc_of_a_full_ranking(place):
    """Masked items are no candidates."""
    settings = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "metrics": ["GAUC"], "valid_metric": "GAUC"}
    *_, test, net, trainer = prepared(Personas, place, dataset="again", eval_args=RATIO, **settings)
    values, weights = [], []
    for user, seen in zip(test.uid_list.tolist(), masked(test)):
        scores = net.full_sort_predict({"user_id": torch.tensor([user])})[0].detach()
        relevant = set(test.uid2positive_item[user].tolist())
        candidates = [item for item in range(1, len(scores)) if item not in seen]
        values.append(roc_auc_score([item in relevant for item in candidates], scores[candidates]))
        weights.append(len(relevant))
    found = trainer.evaluate(test, load_best_model=False)["gauc"]
    assert found == pytest.approx(np.average(values, weights=weights), abs=0.51e-4)


def test_chances():
    key = np.uint64(1)
    users, items = np.arange(4000) // 20, np.arange(4000) % 20
    numbers = chances(key, users, items, 50)
    assert numbers.min() >= 0 and numbers.max() < 1 and len(np.unique(numbers)) == numbers.size
    counts = np.histogram(numbers, 100, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 150
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01
    order = np.random.default_rng(0).permutation(4000)
    assert (chances(key, users[order], items[order], 50) == numbers[order]).all()
    assert (chances(key, users, items, 9) == numbers[:, :9]).all()


class Apart(SequentialPersonas):
    """Has another opinion of all items than of one."""

    def full_sort_predict(self, interaction):
        return self.items[interaction[self.ITEM_SEQ][:, 0]] @ self.items.T


@pytest.mark.parametrize("metrics", [["NDCG", "GAUC"], ["AUC", "LogLoss"]], ids=["lists", "labels"])
@pytest.mark.parametrize("model, once", [("SASRec", True), ("CORE", True), (Apart, False), (SequentialPersonas, False)])
@SPLITS
def test_a_history_is_read_once(place, monkeypatch, model, once, eval_args, metrics):
    """Scores are looked up among those of all items, if there are any and they are the same."""
    settings = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "num_layers": 1, **RECBOLES}
    settings |= {"metrics": metrics, "valid_metric": metrics[0] + "@3" * (metrics[0] == "NDCG"), "eval_batch_size": 100}
    *_, test, _, trainer = prepared(model, place, dataset="again", eval_args=sampled(eval_args, "uni9"), **settings)
    monkeypatch.setattr(candidates, "_CELLS", 3 * ITEMS)  # three histories at a time
    found = trainer.evaluate(test, load_best_model=False)
    assert trainer._once is once
    ours = [trainer._neg_sample_batch_eval(batch)[1] for batch in test]
    trainer._once = False
    theirs = [trainer._neg_sample_batch_eval(batch)[1] for batch in test]
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(trainer.model, "scores_pairs", True, raising=False)
    wanted = trainer.evaluate(test, load_best_model=False)
    assert trainer._once is False and found == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("model", [SequentialPersonas, Personas])
@pytest.mark.parametrize("mode", ["full", "uni5"])
def test_a_part_without_rows(place, model, mode):
    _, _, valid, test, *_ = made(model, place, eval_args={"split": {"LS": "test_only"}, "order": "TO", "mode": mode})
    assert len(valid._dataset) == len(list(valid)) == 0 and len(list(test)) > 0


# --- what is said


def test_the_result_says_it_all(place, tmp_path):
    settings = {
        "data_path": str(place), "run_dir": str(tmp_path / "run"), "epochs": 1, "hidden_size": 8, "embedding_size": 8,
        "train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "topk": [3],
        "valid_metric": "NDCG@3", "mask_history": True,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": {"valid": "uni9", "test": "full"}},
    }  # fmt: skip
    run("GRU4Rec", "again", config_dict=settings)
    said = json.loads((tmp_path / "run/result.json").read_text())["protocol"]
    history = "all that the user has interacted with in this part and those before it"
    assert said == {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
        "valid_mode": "uni9",
        "targets": "1 per user",
        "seen_items_masked": True,
        "negatives": {"number": 9, "distribution": "uniform", "seed": 2020, "excluded": history},
        "metrics": ["hit", "mrr", "ndcg", "precision", "recall"],
        "topk": [3],
        "valid_metric": "NDCG@3",
    }


def test_several_targets(place):
    by_row = protocol(made(SequentialPersonas, place, eval_args=RATIO)[0])
    by_user = protocol(made(Personas, place, eval_args=RATIO)[0])
    assert by_row["targets"] == "several per user, a list for each"
    assert by_user["targets"] == "several per user, one list for all" and by_user["seen_items_masked"]


def test_no_such_mask(place):
    with pytest.raises(UserError, match="mask_history must be True, False or None; it is 'yes'"):
        made(Personas, place, mask_history="yes")


def test_nobody_is_left(place):
    *_, test, _, _ = made(Personas, place, eval_args=sampled(RATIO, "uni5"))
    dataset = test._dataset
    everything = torch.arange(1, dataset.item_num)
    train = test._sampler.parts[0]
    train.inter_feat = type(train.inter_feat)(
        {"user_id": torch.full_like(everything, int(test.uid_list[0])), "item_id": everything}
    )
    with pytest.raises(UserError, match="No item is left to be a negative for user 'u"):
        list(test)


@pytest.mark.parametrize(
    "how",
    [
        {"eval_args": {"mode": "uni2"}},
        {"eval_args": {"mode": "pop2"}},
        {"metrics": ["NDCG", "AUC"], "value_mode": "uni2"},
    ],
    ids=["uni", "pop", "value"],
)
def test_nobody_is_left_is_said_before_a_run(tmp_path, capsys, how):
    """EASE needs no negatives to be trained, but an evaluation against some does."""
    everything = "".join(f"u0\ti{n}\t3\t{n}\n" for n in range(10))
    settings = write_tiny(tmp_path, HEADER + "\n" + everything) | {"model": "EASE", "dataset": "tiny"} | how
    del settings["embedding_size"], settings["epochs"]
    assert "No item is left to be a negative for user 'u0'" in refused(capsys, "run", **settings)
    assert not (tmp_path / "run").exists()
