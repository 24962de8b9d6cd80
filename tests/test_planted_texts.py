"""The sentences of planted personas name a feature of the causing taste; the interactions are as they were."""

import csv
import hashlib
import itertools
import re
import runpy
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from recbole.data import create_dataset, data_preparation

from recbole_persona.config import Config, shipped
from recbole_persona.data import planted, planted_texts
from recbole_persona.data.planted_texts import (
    FEATURES,
    OF_A_TASTE,
    OF_AN_ITEM,
    SENTENCES,
    item_features,
    reviews,
    vocabulary,
)

SHIPPED = shipped("dataset") / "planted-personas"
PAGE = Path(__file__).parent.parent / "docs/planted_personas.md"
COLUMNS = {
    "inter": ["user_id", "item_id", "timestamp", "rating", "explanation", "feature"],
    "item": ["item_id", "title", "features"],
}


def rows(name):
    with open(SHIPPED / name, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


@pytest.fixture(scope="module")
def inter():
    return rows("planted-personas.inter")


def test_the_interactions_are_as_they_were():
    """User, item and place: the bytes of the file before it had texts."""
    lines = (SHIPPED / "planted-personas.inter").read_text(encoding="utf-8").splitlines()
    kept = "".join("\t".join(line.split("\t")[:3]) + "\n" for line in lines)
    assert (
        hashlib.sha256(kept.encode()).hexdigest() == "37d398003f9662786ef043538e7ab04dd1908bc106f04321eb32736973118480"
    )


def test_every_sentence_names_one_feature_of_the_causing_taste_and_of_the_item(inter):
    tastes, causing = dict(rows("truth_features.tsv")), rows("truth_interactions.tsv")
    features = {item: set(named.split()) for item, _, _, named in rows("planted-personas.item")}
    assert all(len(named) == OF_AN_ITEM for named in features.values())
    for (user, item, _, rating, sentence, feature), truth in zip(inter, causing, strict=True):
        assert truth[:2] == [user, item]
        assert [word for word in re.findall(r"[\w-]+", sentence) if word in tastes] == [feature]
        assert tastes[feature] == truth[2] and feature in features[item]
        assert sentence in [form.format(feature) for form in SENTENCES[int(rating)]]


def test_a_user_names_what_they_rank_highest(inter):
    """Whoever names one feature where another was to be had never does the opposite."""
    features = {item: named.split() for item, _, _, named in rows("planted-personas.item")}
    preferred = defaultdict(set)
    for user, item, *_, feature in inter:
        preferred[user].update((feature, other) for other in features[item] if other != feature)
    assert all((second, first) not in pairs for pairs in preferred.values() for first, second in pairs)
    assert len({frozenset(pairs) for pairs in preferred.values()}) == len(preferred)  # users differ


def test_the_rating_tells_the_share_of_the_taste(inter):
    shares = {(user, taste): float(share) for user, taste, share in rows("truth_users.tsv")}
    for row, (user, _, taste) in zip(inter, rows("truth_interactions.tsv")):
        share = shares[user, taste]
        if min(abs(share - step) for step in planted_texts.SHARES) > 0.0001:  # the file has four places
            assert row[3] == str(3 + (share >= 0.25) + (share >= 0.5))
    assert min(Counter(row[3] for row in inter).values()) > 3000


def test_features_and_sentences_are_many(inter):
    used = Counter(row[5] for row in inter)
    assert set(used) == set(vocabulary(10)) and min(used.values()) > 150
    forms = Counter(row[4].replace(row[5], "{}") for row in inter)
    assert set(forms) == set(itertools.chain.from_iterable(SENTENCES.values()))


def test_no_feature_stands_in_a_title_or_in_the_form_of_a_sentence():
    words = vocabulary(40)
    assert len(FEATURES) == len(planted.CLASSES) and len(set(words)) == 40 * OF_A_TASTE
    assert vocabulary(12) == words[: 12 * OF_A_TASTE]
    other = " ".join(
        [*itertools.chain.from_iterable(SENTENCES.values()), *planted.ADJECTIVES, *planted.NOUNS, *planted.CLASSES]
    )
    assert not {word.rstrip("s") for word in words} & {
        word.rstrip("s") for word in re.findall(r"[\w-]+", other.lower())
    }


def test_the_same_seed_gives_the_same_sentences_and_another_seed_others():
    data = planted.generate(2000, 40, 600, 5, seed=1)
    features = item_features(data.item_tastes, seed=1)
    assert (features // OF_A_TASTE == data.item_tastes[:, None]).all() and (np.diff(features) > 0).all()
    first, again, other = (
        list(reviews(data.interactions, 0, data.user_tastes, features, seed, 0)) for seed in (1, 1, 2)
    )
    assert first == again != other and len(first) == 2000


@pytest.mark.parametrize("model, split", [("BPR", {"RS": [0.8, 0.1, 0.1]}), ("SASRec", {"LS": "valid_and_test"})])
def test_texts_come_through_recbole_with_their_rows(model, split, inter):
    settings = {
        "load_col": COLUMNS,
        "text_fields": ["title"],
        "state": "ERROR",
        "eval_args": {"split": split, "order": "TO"},
    }
    settings |= {"train_neg_sample_args": None} if model == "SASRec" else {}
    config = Config(model, "planted-personas", config_dict=settings)
    dataset = create_dataset(config)
    written = {(row[0], row[1]): row[4:] for row in inter}
    titles = {row[0]: row[1] for row in rows("planted-personas.item")}
    test = data_preparation(config, dataset)[2]._dataset
    part = test.inter_feat
    users, items, features = (test.id2token(name, part[name]) for name in ("user_id", "item_id", "feature"))
    sentences = test.texts["explanation"][part["explanation"]]
    assert len(sentences) >= 800
    assert all(written[user, item] == [text, word] for user, item, text, word in zip(users, items, sentences, features))
    shown = test.texts["title"][test.item_feat["title"]]
    assert shown[1:] == [titles[item] for item in test.id2token("item_id", range(1, test.item_num))]
    if model == "SASRec":  # the histories hold the sentences of the user's earlier items
        lists = test.texts["explanation"][part["explanation_list"][:20]]
        for user, history, texts in zip(users, part["item_id_list"][:20], lists):
            assert all(
                written[user, test.id2token("item_id", item)][0] == text
                for item, text in zip(history.tolist(), texts)
                if item
            )


def test_the_code_of_the_page(inter, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    right = runpy.run_path(str(tmp_path / "page.py"))["right"]
    assert all(right(row[4], row[0], row[1]) for row in inter[:2000])
    assert not right("The dragons made my day.", "u1", "i751") and not right("Fine.", "u1", "i751")
