"""Text metrics in RecBole: registry, passes, early stopping, per-user tables, significance; the two baselines that write."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from evaluate_data import PassesTrainer
from recbole.data import create_dataset, data_preparation
from recbole.evaluator.register import metric_types, metrics_dict, smaller_metrics
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.general_recommender import Pop
from recbole.utils import InputType, init_seed
from sklearn.feature_extraction.text import TfidfVectorizer
from tiny import interactions, write_tiny

from recbole_persona.config import Config
from recbole_persona.data.words import words
from recbole_persona.errors import UserError
from recbole_persona.evaluate import text_metrics
from recbole_persona.evaluate.passes import kinds_of
from recbole_persona.evaluate.per_user import evaluate_with_table
from recbole_persona.evaluate.significance import average_seeds, corpus_counts, paired_bootstrap
from recbole_persona.models.text_baselines import medoid
from recbole_persona.registry import METRICS, TEXT

FEATURES = ["battery life", "sound", "price", "strings", "neck"]
PLAIN = [
    "bleu-1", "bleu-4", "peter-bleu-1", "peter-bleu-4", "rouge-1", "rouge-2", "rouge-l", "peter-rouge-1", "peter-rouge-2",
    "peter-rouge-l", "meteor-exact-stem", "usr", "fmr", "fcr", "div", "distinct-1", "distinct-2", "length", "hallucinated",
    "sentiment-agreement",
]  # fmt: skip
CORPUS = ["bleu-1", "bleu-4", "peter-bleu-4", "usr", "fcr", "div", "distinct-1", "distinct-2", "hallucinated"]

pytestmark = pytest.mark.usefixtures("elsewhere")


def explained():
    """The tiny interactions; most say something about a feature."""
    random = np.random.default_rng(1)
    head, *rows = interactions().splitlines()
    lines = [f"{head}\tfeature:token\texplanation:text"]
    for number, row in enumerate(rows):
        feature, word = random.choice(FEATURES), random.choice(["great", "awful", "fine", "loud"])
        text = f"the {feature} is {word}" + " really" * int(random.integers(3))
        lines.append(f"{row}\t{feature}\t{text}" if number % 5 else f"{row}\t\t")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    place = tmp_path_factory.mktemp("texts")
    split = {"split": {"RS": [0.4, 0.2, 0.4]}, "order": "TO", "group_by": "user", "mode": "full"}
    base = write_tiny(place, explained()) | {"state": "ERROR", "show_progress": False, "eval_args": split, "topk": [3]}
    return base | {"metrics": PLAIN, "valid_metric": "rouge-l", "checkpoint_dir": str(place), "run_dir": None}


def prepared(model, settings, **more):
    """``(trainer, loaders)``, trained as far as there is something to train."""
    config = Config(model, "tiny", config_dict=settings | more)
    init_seed(config["split_seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    trainer = PassesTrainer(config, config.model_class(config, loaders[0]._dataset))
    trainer.eval_collector.data_collect(loaders[0])
    for batch in loaders[0]:
        trainer.model.calculate_loss(batch)
    return trainer, loaders


@pytest.fixture(scope="module")
def measured(settings):
    """By model ``(result, table, trainer, loaders)`` of all metrics on the test part."""
    found = {}
    for model in ("ConstantSentence", "NearestReview"):
        trainer, loaders = prepared(model, settings, metric_decimal_place=12)
        found[model] = (*evaluate_with_table(trainer, loaders[2], load_best_model=False), trainer, loaders)
    return found


def lines(parts):
    """(user, item, feature, text) of every line of the file that is not in these parts."""
    held_out = set()
    for part in parts:
        rows = part._dataset.inter_feat
        held_out |= set(zip(*(part._dataset.id2token(name, rows[name]).tolist() for name in ("user_id", "item_id"))))
    cells = [line.split("\t") for line in explained().splitlines()[1:]]
    return [(user, item, *more) for user, item, _, _, *more in cells if (user, item) not in held_out]


# --- the registry


def test_every_text_metric_is_registered_as_its_class_says():
    entries = {name: entry for name, entry in METRICS.items() if entry.type == TEXT}
    assert len(entries) == 27 and not any("@" in name for name in entries)
    for name, entry in entries.items():
        made = getattr(text_metrics, entry.path.partition(":")[2])
        assert made.name == name and metric_types[name] == made.metric_type == TEXT
        assert made.smaller == entry.smaller == (name in smaller_metrics) and name in metrics_dict
    assert [name for name, entry in entries.items() if entry.smaller] == ["div", "hallucinated"]
    assert list(kinds_of(["usr", "AUC", "NDCG"])) == [metric_types["ndcg"], metric_types["auc"], TEXT]


# --- values


def test_metrics_are_those_of_the_rows(measured):
    result, table, trainer, loaders = measured["NearestReview"]
    assert list(result) == PLAIN
    dataset = loaders[2]._dataset
    rows = dataset.inter_feat
    some = (rows["explanation"] > 0).nonzero().squeeze(1)
    assert len(table) == len(some) < len(rows)
    references = dataset.texts["explanation"][rows["explanation"][some]]
    generated = trainer.model.generate(rows[some])
    assert [json.loads(cell) for cell in table["generated"]] == generated
    assert table["user"].tolist() == dataset.id2token("user_id", rows["user_id"][some]).tolist()
    assert table["item"].tolist() == dataset.id2token("item_id", rows["item_id"][some]).tolist()
    gold = dataset.id2token("feature", rows["feature"][some])
    assert table["fmr"].tolist() == [float(feature in text) for feature, text in zip(gold, generated)]
    assert result["fmr"] == pytest.approx(table["fmr"].mean())
    assert result["usr"] == pytest.approx(len(set(generated)) / len(generated))
    assert result["length"] == pytest.approx(np.mean([len(text.split()) for text in generated]))
    named = [{feature for feature in FEATURES if feature in text} for text in generated]
    pairs = [len(one & other) for place, one in enumerate(named) for other in named[:place]]
    assert result["div"] == pytest.approx(np.mean(pairs)) and result["fcr"] == len(set().union(*named)) / len(FEATURES)
    # hallucinated, from the lines of the file that are in training
    seen = {(item, feature) for _, item, feature, _ in lines(loaders[1:])}
    wrong = [(item, one) not in seen for item, found in zip(table["item"], named) for one in found]
    assert result["hallucinated"] == pytest.approx(np.mean(wrong)) and 0 < np.mean(wrong) < 1
    middle = [3.0] * len(some)
    agree = text_metrics.agreement([words(text) for text in generated], rows["rating"][some], middle[0])
    assert result["sentiment-agreement"] == pytest.approx(np.nanmean(agree))
    means = [name for name in PLAIN if name in table]
    assert {name: table[name].mean() for name in means} == pytest.approx({name: result[name] for name in means})
    assert all(len(reference) for reference in references) and not set(CORPUS) & set(means)


def test_order_of_rows_changes_nothing(measured):
    result, _, trainer, _ = measured["NearestReview"]
    struct = trainer.eval_collector.last
    order = np.random.default_rng(0).permutation(len(struct.get("text.generated")))
    shuffled = type(struct)()
    for name in ("data.features", "data.item_features", "data.middle_rating"):
        shuffled.set(name, struct.get(name))
    for name in ("text.generated", "text.reference", "text.feature"):
        shuffled.set(name, [struct.get(name)[place] for place in order])
    for name in ("text.items", "text.rating"):
        shuffled.set(name, struct.get(name)[order])
    again = trainer.evaluator.evaluate(shuffled)
    assert dict(again) == pytest.approx(dict(result), abs=1e-9)


class Common(Pop):
    """A general model that writes."""

    reads_fields = ("explanation_field",)

    def generate(self, interaction, task="explanation"):
        return [f"the {FEATURES[item % 5]} is great" for item in interaction[self.ITEM_ID].tolist()]


def test_text_metrics_beside_lists_and_ratings(settings):
    """One pass per type; the values are those of a run of their own, and no row of texts is lost in the table."""
    more = {"metrics": ["rouge-l", "NDCG", "div", "AUC", "bleu-4", "MAE", "ItemCoverage"], "LABEL_FIELD": "rating"}
    trainer, loaders = prepared(Common, settings, **more)
    result, table = evaluate_with_table(trainer, loaders[2], load_best_model=False)
    assert list(result) == ["rouge-l", "ndcg@3", "div", "auc", "bleu-4", "mae", "itemcoverage@3"]
    assert len(trainer.passes) == 3
    alone, rows = evaluate_with_table(prepared(Common, settings)[0], loaders[2], load_best_model=False)
    same = ("rouge-l", "div", "bleu-4")
    assert {name: result[name] for name in same} == {name: alone[name] for name in same}
    assert table["ndcg@3"].mean() == pytest.approx(result["ndcg@3"], abs=1e-4)
    assert table["ndcg@3"].notna().sum() == table["user"].nunique() < len(table)
    assert table["cases"].sum() == len(loaders[2]._dataset.inter_feat)
    assert sorted(table["rouge-l"].dropna()) == sorted(rows["rouge-l"])
    by_user = table.groupby("user")["rouge-l"].mean().dropna()
    pd.testing.assert_series_equal(by_user, rows.groupby("user")["rouge-l"].mean(), check_names=False)
    for metric in ("itemcoverage@3", "mae", "bleu-4", "div"):
        counts = corpus_counts([table], [table], metric, loaders[2]._dataset.item_num)
        assert paired_bootstrap(*counts, n_resamples=9).difference == 0


# --- significance


def test_corpus_metrics_are_sums_over_users(measured):
    ours, base = measured["NearestReview"], measured["ConstantSentence"]
    for metric in CORPUS:
        counts = corpus_counts([ours[1]], [base[1]], metric)
        found = paired_bootstrap(*counts, n_resamples=99)
        assert found.difference == pytest.approx(ours[0][metric] - base[0][metric], abs=1e-9), metric
        assert found.low <= found.difference <= found.high
    assert len(average_seeds([ours[1]], "rouge-l")) == ours[1]["user"].nunique()


# --- a run


def test_a_run_stops_by_a_text_metric_and_is_found_again(settings, tmp_path):
    import recbole_persona

    chosen = {"metrics": ["ROUGE-L", "NDCG", "bleu-4"], "valid_metric": "ROUGE-L", "run_dir": str(tmp_path / "run")}
    found = recbole_persona.run("ConstantSentence", "tiny", config_dict=settings | chosen)
    assert set(found["test_result"]) == {"rouge-l", "ndcg@3", "bleu-4"}
    assert found["best_valid_score"] == found["best_valid_result"]["rouge-l"] > 0
    assert found["result"]["protocol"]["bleu"] == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
    table = pd.read_csv(tmp_path / "run" / "per_user.csv.gz")
    assert {"rouge-l", "bleu_matched_4", "ndcg@3"} <= set(table)
    from recbole_persona.runner.training import evaluate_run

    again, _ = evaluate_run(tmp_path / "run")
    assert again == pytest.approx(found["test_result"])


def test_smaller_is_better_where_it_is(settings):
    assert (
        Config("ConstantSentence", "tiny", config_dict=settings | {"valid_metric": "div"})["valid_metric_bigger"]
        is False
    )
    assert Config("ConstantSentence", "tiny", config_dict=settings)["valid_metric_bigger"] is True


class Improving(Pop):
    """Writes better from epoch to epoch, until it forgets; keeps what it knows in its state."""

    reads_fields = ("explanation_field",)
    said = ["nothing", "is great", "the sound is great", "the", "no"]

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.register_buffer("epoch", torch.tensor(-1))

    def calculate_loss(self, interaction):
        self.seen = getattr(self, "seen", 0) + 1
        self.epoch = torch.tensor((self.seen - 1) // self.batches)
        return super().calculate_loss(interaction) + 0 * self.fake_loss.sum()

    def generate(self, interaction, task="explanation"):
        return [self.said[int(self.epoch)]] * len(interaction)


def test_early_stopping_keeps_the_best_text(settings):
    """RecBole's own trainer with our passes and no run folder: the best weights come from its checkpoint."""
    more = {
        "epochs": 5,
        "stopping_step": 2,
        "train_batch_size": 4096,
        "metrics": ["rouge-1"],
        "valid_metric": "rouge-1",
    }
    config = Config(Improving, "tiny", config_dict=settings | more)
    loaders = data_preparation(config, create_dataset(config))
    model = Improving(config, loaders[0]._dataset)
    model.batches = len(loaders[0])
    trainer = PassesTrainer(config, model)
    score, _ = trainer.fit(loaders[0], loaders[1], verbose=False)
    assert int(model.epoch) > 2  # it went on behind its best
    tested = trainer.evaluate(loaders[2])
    assert int(model.epoch) == 2 and score > 0.5 and tested["rouge-1"] > 0.5


# --- the baselines


def test_the_constant_sentence_is_most_like_all(measured):
    *_, trainer, loaders = measured["ConstantSentence"]
    sentences = [text for *_, text in lines(loaders[1:]) if text]

    def counts(text):
        found = words(text)
        vector = np.array([found.count(word) for word in vocabulary], dtype=float)
        return vector / np.linalg.norm(vector)

    vocabulary = sorted({word for text in sentences for word in words(text)})
    means = [np.mean([counts(one) @ counts(other) for other in sentences]) for one in sentences]
    said = trainer.model.generate(loaders[2]._dataset.inter_feat)
    assert len(set(said)) == 1 and means[sentences.index(said[0])] == pytest.approx(max(means))
    assert medoid(["!", "?"]) == 0 and medoid(["a b", "c", "a b"]) == 0


def test_the_nearest_review_is_of_the_item_by_the_most_similar_user(measured):
    *_, trainer, loaders = measured["NearestReview"]
    dataset = loaders[2]._dataset
    rows = dataset.inter_feat
    wrote = [(user, item, text) for user, item, _, text in lines(loaders[1:]) if text]
    weigh = TfidfVectorizer(analyzer=words, norm=None).fit([text for *_, text in wrote])

    def profile(user):
        total = sum((weigh.transform([text]).toarray()[0] for one, _, text in wrote if one == user), np.zeros(1))
        return total / max(np.linalg.norm(total), 1e-9)

    asked = list(zip(*(dataset.id2token(name, rows[name]).tolist() for name in ("user_id", "item_id"))))
    profiles = {user: profile(user) for user in {user for user, *_ in [*asked, *wrote]}}
    for (user, item), said in zip(asked, trainer.model.generate(rows)):
        others = [(one, text) for one, other, text in wrote if other == item]
        if others:
            similar = [float(np.sum(profiles[user] * profiles[one])) for one, _ in others]
            allowed = {text for value, (_, text) in zip(similar, others) if value > max(similar) - 1e-9}
        else:
            allowed = {text for one, _, text in wrote if one == user} or {text for *_, text in wrote}
        assert said in allowed


def test_a_new_user_and_a_new_item_get_a_sentence(measured):
    """Id 0, the padding, wrote nothing and nobody wrote about it."""
    for model in ("ConstantSentence", "NearestReview"):
        *_, trainer, _ = measured[model]
        nobody = {"user_id": torch.tensor([0, 0, 1]), "item_id": torch.tensor([0, 1, 0])}
        from recbole.data.interaction import Interaction

        assert all(trainer.model.generate(Interaction(nobody), task="explanation"))


# --- sequential writers, and boards


class Last(SequentialRecommender):
    """Writes the number of the newest item of the history."""

    reads_fields = ("explanation_field",)
    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.scores = torch.nn.Parameter(torch.zeros(self.n_items))

    def calculate_loss(self, interaction):
        return self.scores.square().sum()

    def full_sort_predict(self, interaction):
        return self.scores.repeat(len(interaction))

    def generate(self, interaction, task="explanation"):
        newest = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN].unsqueeze(1) - 1).squeeze(1)
        return [f"item {item}" for item in newest.tolist()]


@pytest.mark.parametrize("metrics", [["usr", "NDCG"], ["usr", "hallucinated"]])
def test_rows_of_a_sequential_model(settings, metrics):
    """Every text has its own row, also where lists have one per row."""
    split = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "user", "mode": "full"}
    more = {"eval_args": split, "metrics": metrics, "valid_metric": "usr", "train_neg_sample_args": None}
    trainer, loaders = prepared(Last, settings | more)
    _, table = evaluate_with_table(trainer, loaders[2], load_best_model=False)
    rows = loaders[2]._dataset.inter_feat
    if "NDCG" in metrics:
        assert len(table) == len(rows) and table["generated"].isna().tolist() == (rows["explanation"] == 0).tolist()
    places = (rows["explanation"] > 0).nonzero().squeeze(1)
    wanted = trainer.model.generate(rows[places])
    assert [json.loads(cell) for cell in table["generated"].dropna()] == wanted
    assert len({(user, item) for user, item in zip(table["user"], table["item"])}) == len(table)


def test_what_training_saw_includes_first_items(settings):
    """The first item of a user is no target of a sequential row, and yet its feature was seen."""
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    more = {
        "eval_args": split,
        "metrics": ["hallucinated"],
        "valid_metric": "hallucinated",
        "train_neg_sample_args": None,
    }
    seen = []
    for model in (Last, Common):
        trainer, _ = prepared(model, settings | more)
        struct = trainer.eval_collector.data_struct
        seen.append({item: set(ids.tolist()) for item, ids in struct.get("data.item_features").items()})
    assert seen[0] == seen[1]


def test_a_board_of_writers(settings, tmp_path):
    """Baselines and a sequential model on one board; texts are compared row by row, corpus metrics by a paired bootstrap."""
    from recbole_persona.board.leaderboard import leaderboard

    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    protocol = {name: settings[name] for name in ("load_col", "topk", "eval_batch_size")}
    protocol |= {"eval_args": split, "metrics": ["rouge-l", "peter-bleu-1", "div"], "epochs": 1}
    rows = [{"name": one, "model": one} for one in ("NearestReview", "ConstantSentence")]
    last = {"name": "Last", "model": "test_text_runs:Last", "config": {"train_neg_sample_args": None}}
    data = {"tiny": {"data_path": settings["data_path"].removesuffix("/tiny")}}
    board = {"title": "Texts", "datasets": data, "protocol": protocol, "seeds": [1], "primary": "rouge-l",
             "baseline": "ConstantSentence", "rows": [*rows, last]}  # fmt: skip
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(board))
    found = leaderboard(tmp_path / "board.yaml", runs=tmp_path / "runs")
    made = {row["name"]: row for row in found["rows"]}
    assert {row["status"] for row in made.values()} == {"run"}, made
    assert made["Last"]["rank"] == 3 and made["Last"]["metrics"]["div"]["smaller_is_better"]
    assert set(made["NearestReview"]["comparisons"]) == {"rouge-l", "peter-bleu-1", "div"}


# --- bad input


@pytest.mark.parametrize(
    ("model", "more", "sentence"),
    [
        ("BPR", {}, "needs a model that writes texts, such as PeaPOD; BPR has no generate"),
        ("ConstantSentence", {"explanation_field": "review"}, "reads 'review' .explanation_field., and .*inter has no column"),
        ("ConstantSentence", {"feature_field": "aspect"}, "reads 'aspect' .feature_field., and .*tiny.inter has no column"),
        ("ConstantSentence", {"RATING_FIELD": "stars", "metrics": ["sentiment-agreement"], "valid_metric": "sentiment-agreement"},
         "sentiment-agreement reads 'stars' .RATING_FIELD., and .*tiny.inter has no column"),
        ("ConstantSentence", {"metrics": ["bertscore"], "valid_metric": "bertscore"}, "set bertscore_encoder"),
        ("ConstantSentence", {"metrics": ["judge"], "valid_metric": "judge"}, "runs only where judge_url"),
        ("ConstantSentence", {"bleu_tokenizer": "moses"}, "bleu_tokenizer is one of"),
        ("ConstantSentence", {"valid_metric": "rouge-l@3"}, "valid_metric is rouge-l@3, which is not computed"),
        ("ConstantSentence", {"metrics": ["rouge-3"]}, "no metric named 'rouge-3'; the nearest are"),
        ("ConstantSentence", {"metrics": ["NDCG"], "explanation_field": "nothing"}, "The model ConstantSentence reads"),
    ],
)  # fmt: skip
def test_refused(settings, tmp_path, model, more, sentence):
    import recbole_persona

    values = (
        settings
        | {"run_dir": str(tmp_path / "run"), "valid_metric": (more.get("metrics") or ["rouge-l"])[0] + ""}
        | more
    )
    values["valid_metric"] = "NDCG@3" if values["metrics"] == ["NDCG"] else values["valid_metric"]
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        recbole_persona.run(model, "tiny", config_dict=values)


def test_a_held_out_part_without_a_text(settings):
    trainer, loaders = prepared(Common, settings)
    loaders[2]._dataset.inter_feat["explanation"][:] = 0
    with pytest.raises(UserError, match="No held-out row of 'tiny' has a text 'explanation'"):
        trainer.evaluate(loaders[2], load_best_model=False)
