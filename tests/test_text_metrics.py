"""Formulas of text metrics: known answers, the packages that everybody uses, slow loops."""

import json
import threading
import unicodedata
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_persona.data.words import words
from recbole_persona.errors import UserError
from recbole_persona.evaluate import named_features, rouge, sentiment, variety
from recbole_persona.evaluate.bleu import bleu, bleu_counts, sacrebleu_tokens, signature
from recbole_persona.evaluate.judge import judged, number
from recbole_persona.evaluate.meteor import meteor_function
from recbole_persona.settings import JUDGE_KEY

REFERENCES = [
    "the battery life is great and it charges fast",
    "this shampoo smells really nice",
    "good toy for my kids",
    "the color is not what i expected at all",
]
HYPOTHESES = [
    "the battery life is good and it charges very fast",
    "this shampoo smells nice nice nice",
    "my kids love this toy",
    "the quality is not what i expected",
]
TOKENS = st.lists(st.sampled_from(["a", "b", "c", "don't", "3.50", "é", "日本", "!", "Great", "great"]), max_size=9)
TEXT = TOKENS.map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def corpus_bleu(hypotheses, references, order=4, smoothed=True, tokens=None):
    tokens = tokens or (sacrebleu_tokens("13a") if smoothed else str.split)
    counts = bleu_counts([tokens(one) for one in hypotheses], [tokens(one) for one in references])
    return float(bleu(counts.sum(0), order, smoothed))


def mean(function, *arguments):
    return float(np.mean([function(*pair, *arguments) for pair in zip(HYPOTHESES, REFERENCES)]))


# --- words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("...!? --", []),
        ("Don't stop_now 3.50", ["don", "t", "stop", "now", "3", "50"]),
        ("Café CAFÉ", ["café", "café"]),
        (unicodedata.normalize("NFD", "café"), ["café"]),
        ("音がいい guitar", ["音", "が", "い", "い", "guitar"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("Звук хороший", ["звук", "хороший"]),
        ("한국어 소리", ["한국어", "소리"]),
    ],
)
def test_words(text, found):
    assert words(text) == found


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_words_of_ascii_are_those_of_rouge_score(text):
    from rouge_score.tokenize import tokenize

    assert words(text) == tokenize(text, None)


# --- BLEU


def test_bleu_of_the_published_convention():
    """Values computed with the bleu.py that PETER, P5 and POD share."""
    for order, value in enumerate((75.0, 61.237244, 50.819818, 39.607292), 1):
        assert corpus_bleu(HYPOTHESES, REFERENCES, order, smoothed=False) == pytest.approx(value, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 4), st.sampled_from(["13a", "intl", "char", "zh", "none"]))
def test_bleu_is_that_of_sacrebleu(pairs, order, tokenizer):
    from sacrebleu.metrics import BLEU

    hypotheses, references = zip(*pairs)
    peer = BLEU(tokenize=tokenizer, max_ngram_order=order, force=True)
    score = peer.corpus_score(list(hypotheses), [list(references)]).score
    assert corpus_bleu(hypotheses, references, order, tokens=sacrebleu_tokens(tokenizer)) == pytest.approx(
        score, abs=1e-6
    )
    assert str(peer.get_signature()).startswith(signature(tokenizer))


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_peter_bleu_is_bleu_without_smoothing(pairs, order):
    from sacrebleu.metrics import BLEU

    hypotheses, references = zip(*pairs)
    peer = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
    score = peer.corpus_score(list(hypotheses), [list(references)]).score
    assert corpus_bleu(hypotheses, references, order, smoothed=False) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "value"),
    [
        ("a b c d e", "a b c d e", 100.0),
        ("", "a b c d", 0.0),
        ("a b c d", "", 0.0),
        ("", "", 0.0),
        ("a", "a", 0.0),  # no pair, so no BLEU-4; sacrebleu says so, too
        ("x y z w", "a b c d", 0.0),
        ("!!!!", "!!!!", 100.0),  # punctuation is tokens in BLEU
        ("日本 語 の 本 だ", "日本 語 の 本 だ", 100.0),
    ],
)
def test_known_bleu(hypothesis, reference, value):
    assert corpus_bleu([hypothesis], [reference]) == pytest.approx(value)
    assert corpus_bleu([hypothesis] * 3, [reference] * 3) == pytest.approx(value)  # duplicates change nothing


def test_chinese_needs_its_tokenizer():
    assert corpus_bleu(["音色很好听"], ["音色很好听"], tokens=sacrebleu_tokens("zh")) == pytest.approx(100)
    assert corpus_bleu(["音色很好听"], ["音色很好听"]) == 0  # 13a: one token, no pair of them
    with pytest.raises(UserError, match="bleu_tokenizer is one of 13a"):
        sacrebleu_tokens("moses")


def test_counts_add_up():
    """BLEU of a corpus from the sums of its parts, for any shape of sums."""
    counts = bleu_counts([one.split() for one in HYPOTHESES], [one.split() for one in REFERENCES])
    parts = np.stack([counts[:2].sum(0), counts[2:].sum(0)])
    assert float(bleu(parts.sum(0), 4, False)) == pytest.approx(39.607292, abs=1e-6)
    assert bleu(np.stack([parts, parts]), 2, True).shape == (2, 2)


# --- ROUGE


def test_rouge_of_the_published_convention():
    assert mean(rouge.peter_rouge_n, 1) == pytest.approx(77.024853, abs=1e-6)
    assert mean(rouge.peter_rouge_n, 2) == pytest.approx(47.741596, abs=1e-6)
    assert mean(rouge.peter_rouge_l) == pytest.approx(67.015819, abs=1e-6)
    pair = "a a a b", "a b c d"
    assert rouge.peter_rouge_n(*pair, 1) == pytest.approx(66.666666, abs=1e-6)
    assert rouge.peter_rouge_n(*pair, 2) == pytest.approx(40, abs=1e-6)
    assert rouge.peter_rouge_l(*pair) == pytest.approx(50)


@settings(max_examples=80, deadline=None)
@given(TEXT, TEXT)
def test_rouge_is_that_of_rouge_score(hypothesis, reference):
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):
        def tokenize(self, text):
            return words(text)

    peer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Words()).score(reference, hypothesis)
    pair = words(hypothesis), words(reference)
    assert rouge.rouge_n(*pair, 1) == pytest.approx(peer["rouge1"].fmeasure, abs=1e-6)
    assert rouge.rouge_n(*pair, 2) == pytest.approx(peer["rouge2"].fmeasure, abs=1e-6)
    assert rouge.rouge_l(*pair) == pytest.approx(peer["rougeL"].fmeasure, abs=1e-6)


@settings(deadline=None)
@given(TOKENS, TOKENS)
def test_longest_common_subsequence(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    assert rouge.longest_common(first, second) == table[-1][-1]


@pytest.mark.parametrize(
    ("hypothesis", "reference", "one", "two", "longest"),
    [
        ("the sound is great", "the sound is great", 1, 1, 1),
        ("", "the sound", 0, 0, 0),
        ("the sound", "", 0, 0, 0),
        ("", "", 0, 0, 0),
        ("sound", "sound", 1, 0, 1),
        ("音が良い", "音が良い", 1, 1, 1),
        ("très bien", "tres bien", 1 / 2, 0, 1 / 2),  # an accent makes another word
        ("?!", "?!", 0, 0, 0),  # no word
    ],
)
def test_known_rouge(hypothesis, reference, one, two, longest):
    pair = words(hypothesis), words(reference)
    found = rouge.rouge_n(*pair, 1), rouge.rouge_n(*pair, 2), rouge.rouge_l(*pair)
    assert found == pytest.approx((one, two, longest))
    assert rouge.peter_rouge_n("", "", 1) == pytest.approx(100)  # one empty word on both sides, as its code has it


# --- METEOR


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT)
def test_meteor_is_that_of_nltk(hypothesis, reference):
    from nltk.translate.meteor_score import meteor_score

    class NoSynonyms:
        synsets = staticmethod(lambda word: [])

    pair = words(hypothesis), words(reference)
    wanted = meteor_score([pair[1]], pair[0], wordnet=NoSynonyms()) if all(pair) else 0.0
    assert meteor_function(synonyms=False)(*pair) == pytest.approx(wanted, abs=1e-6)


def test_known_meteor():
    meteor = meteor_function(synonyms=False)
    assert meteor([], ["a"]) == meteor(["a"], []) == meteor([], []) == meteor(["a"], ["b"]) == 0
    assert meteor(["guitar"], ["guitar"]) == pytest.approx(0.5)  # 1 match in 1 chunk: 1 - 0.5 * 1
    assert meteor(["the", "strings", "sound"], ["the", "string", "sounds"]) == pytest.approx(1 - 0.5 / 27)  # stems


def test_meteor_with_synonyms():
    try:
        meteor = meteor_function(synonyms=True)
    except UserError as error:
        assert "the metric without synonyms is meteor-exact-stem" in str(error)
        pytest.skip("nltk has no WordNet here")
    assert meteor(["a", "big", "car"], ["a", "big", "auto"]) > 0.9
    # nltk looks up synonyms of stems: one that is no word ("automobil") has none
    assert meteor(["a", "big", "car"], ["a", "big", "automobile"]) < 0.9


# --- features


FEATURES = ["", "sound", "battery life", "Battery  Life", "life", "price", "音", "..."]


def test_features_are_found_by_their_words():
    finder = named_features.FeatureFinder(FEATURES)
    assert finder.names == ["sound", "battery life", "life", "price", "音"]
    assert finder.numbers.tolist() == [-1, 0, 1, 1, 2, 3, 4, -1]
    assert finder.named(words("Its battery-life, sound, sound; prices")) == [0, 1, 2]
    assert finder.named(words("this 音 is good")) == [4] and finder.named([]) == []
    assert finder.number("BATTERY life") == 1 and finder.number("strings") == finder.number("") == -1


NAMED = st.lists(st.lists(st.integers(0, 5), max_size=4).map(lambda one: sorted(set(one))), max_size=9)


@settings(deadline=None)
@given(NAMED, st.randoms())
def test_diversity_and_coverage_against_all_pairs(named, random):
    pairs = [len(set(one) & set(other)) for one, other in combinations(named, 2)]
    shuffled = random.sample(named, len(named))
    assert named_features.diversity(named) == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    assert named_features.diversity(shuffled) == pytest.approx(named_features.diversity(named), nan_ok=True)
    assert named_features.coverage(named, 6) == len({one for found in named for one in found}) / 6


def test_known_features():
    assert np.isnan(named_features.diversity([[1]])) and np.isnan(named_features.diversity([]))
    assert named_features.diversity([[0, 1]] * 5) == 2  # all alike
    assert np.isnan(named_features.coverage([[]], 0))
    np.testing.assert_array_equal(named_features.matches([[0, 2], [1], []], [2, 0, -1]), [1, 0, np.nan])
    assert named_features.hallucinated([[0, 2], [1], []], [7, 8, 9], {7: {0}, 8: {1}}).tolist() == [1, 0, 0]


# --- variety


@settings(deadline=None)
@given(st.lists(TEXT, max_size=8), st.integers(1, 2), st.randoms())
def test_variety_against_loops(texts, n, random):
    unique = [text for place, text in enumerate(texts) if text.split() not in [one.split() for one in texts[:place]]]
    assert variety.unique_share(texts) == pytest.approx(len(unique) / len(texts) if texts else np.nan, nan_ok=True)
    tokens = [words(text) for text in texts]
    grams = [tuple(one[start : start + n]) for one in tokens for start in range(len(one) - n + 1)]
    wanted = len(set(grams)) / len(grams) if grams else np.nan
    assert variety.distinct(tokens, n) == pytest.approx(wanted, nan_ok=True)
    assert variety.distinct(random.sample(tokens, len(tokens)), n) == pytest.approx(wanted, nan_ok=True)


def test_known_variety():
    assert variety.unique_share(["a b", "a  b", "a c"]) == pytest.approx(2 / 3)
    assert variety.unique_share([""] * 4) == 1 / 4
    assert variety.distinct([["a", "a"], ["a", "b"]], 1) == 0.5


# --- sentiment


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("I love this great guitar", 1),
        ("it broke, a waste of money", -1),
        ("I don't love it", -1),
        ("not bad at all", 1),
        ("a string of metal", 0),
        ("", 0),
        ("great sound but poor strings", 0),
    ],
)
def test_polarity(text, sign):
    assert sentiment.polarity(words(text)) == sign


def test_agreement_leaves_out_what_it_cannot_tell():
    texts = [words(one) for one in ("great", "great", "great", "a string")]
    np.testing.assert_array_equal(sentiment.agreement(texts, [5, 1, 3, 5], 3.0), [1, 0, np.nan, np.nan])
    assert not sentiment.POSITIVE & sentiment.NEGATIVE


# --- BERTScore


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a tiny BERT with random weights that knows the letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz")]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=len(letters) + 5, max_position_embeddings=16, **size)).save_pretrained(folder)
    return folder


def test_bertscore_against_loops(encoder):
    from recbole_persona.evaluate.bertscore import BertScore

    score = BertScore(str(encoder))
    hypotheses = ["a b c", "xyz", "", "good", "k", "the very long sentence that is cut somewhere"]
    references = ["a c", "xyz", "a", "", "b d f", "another sentence"]
    found = score(hypotheses, references, batch_size=4)

    def vectors(text):
        ids = score.tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        states = score.model(**ids).last_hidden_state[0, 1:-1].detach().double()
        return states / states.norm(dim=1, keepdim=True)

    for value, hypothesis, reference in zip(found, hypotheses, references):
        one, other = vectors(hypothesis), vectors(reference)
        if not len(one) or not len(other):
            assert value == 0
            continue
        precision = np.mean([max(float(a @ b) for b in other) for a in one])
        recall = np.mean([max(float(a @ b) for a in one) for b in other])
        assert value == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert found[1] == pytest.approx(1)  # identical
    assert score(["", ""], ["", ""]).tolist() == [0, 0]


def test_an_encoder_that_is_not_here(tmp_path):
    from recbole_persona.evaluate.bertscore import BertScore

    with pytest.raises(UserError, match="bertscore_encoder names the folder"):
        BertScore(str(tmp_path))


# --- the judge


@contextmanager
def endpoint(answer):
    """A server on this machine that speaks OpenAI's protocol; yields its address and the requests that it got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers.get("Authorization"), body))
            status, content = answer(body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_judge_is_asked_about_every_pair(monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, "secret")

    def answer(body):
        asked = body["messages"][0]["content"]
        return 200, "8/10" if "wrote: good" in asked else "I cannot say"

    with endpoint(answer) as (url, requests):
        values = judged(url, "some-model", ["good", ""], ["fine", "fine {braces}"])
    np.testing.assert_array_equal(values, [8, np.nan])
    assert {(path, key) for path, key, _ in requests} == {("/v1/chat/completions", "Bearer secret")}
    assert all(body["model"] == "some-model" and body["temperature"] == 0 for *_, body in requests)


def test_a_judge_that_refuses():
    with endpoint(lambda body: (500, "")) as (url, _), pytest.raises(UserError, match=r"judge_url.*HTTP Error 500"):
        judged(url, "m", ["a"], ["b"])
    with pytest.raises(UserError, match="does not answer as it should"):
        judged(url, "m", ["a"], ["b"])


@pytest.mark.parametrize(
    ("answer", "value"), [("8", 8), (" **7.5**", 7.5), ("0/10", 0), ("11", None), ("good: 8", None), ("", None)]
)
def test_numbers_of_a_judge(answer, value):
    assert number(answer) == value if value is not None else np.isnan(number(answer))
