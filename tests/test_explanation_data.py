"""Reviews as explanations: sentences, features, and the sentence of a review that says most of one."""

import gzip
import importlib.util
import json
import os
import random
import sys
from pathlib import Path

import pytest
from convert_inputs import REVIEW_2014, contents, counts, packed, written
from hypothesis import given
from hypothesis import strategies as st
from recbole.data import create_dataset

from recbole_persona.cli import main
from recbole_persona.config import Config
from recbole_persona.data.convert import convert, opinions
from recbole_persona.data.convert.lexicon import Remark, Usage, chosen, has_wordnet, remarks
from recbole_persona.data.convert.reviews import Chooser
from recbole_persona.data.convert.sentences import sentences, words
from recbole_persona.errors import UserError

SHARED = Path(os.environ.get("RECBOLE_PERSONA_SHARED_DATA", Path(__file__).parent.parent.parent / "shared/data"))
REAL = SHARED / "amazon_musical_instruments_2014/reviews.jsonl.gz"
wordnet = pytest.mark.skipif(not has_wordnet(), reason="nltk or its corpus wordnet is not installed")


# --- sentences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It is warm. I like it!  Really?! Yes", ["It is warm.", "I like it!", "Really?!", "Yes"]),
        ("It is warm.The neck is thin.and so on. so", ["It is warm.", "The neck is thin.and so on.", "so"]),
        ("Mr. Smith, e.g. J. Mayer's U.S.A. model.", ["Mr. Smith, e.g. J. Mayer's U.S.A. model."]),
        ("It is 3.5 lbs. and Amazon.com says 4", ["It is 3.5 lbs. and Amazon.com says 4"]),
        ("well... it is. Well... It is", ["well... it is.", "Well...", "It is"]),
        ('He said "fine." (Or not.) Then', ['He said "fine."', "(Or not.)", "Then"]),
        ("one\ntwo\r\n\r\n three", ["one", "two", "three"]),
        ("&#34;Good&#34; &amp; <br />cheap.<br>So   what", ['"Good" & cheap.', "So what"]),
        ("It and I. We", ["It and I.", "We"]),
        ("音がいい。とても好き！", ["音がいい。", "とても好き！"]),
        ("", []),
        (" \n ", []),
        ("...", ["..."]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@given(st.text(st.characters() | st.sampled_from(".!? \nAa\"')"), max_size=60))
def test_no_sign_is_lost_between_sentences(text):
    plain = text.replace("&", "").replace("<", "")
    cut = sentences(plain)
    assert "".join("".join(cut).split()) == "".join(plain.split())
    assert all(sentence == " ".join(sentence.split()) for sentence in cut)


def test_words():
    assert words("It’s 5-string! Don't [é]") == ["it's", "5-string", "!", "don't", "[", "é", "]"]


# --- features

ABOUT = ("tone", "neck", "strap", "finish", "pedal", "quality", "sound")


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("the tone is really very warm", [("tone", "link", "warm")]),
        ("the tone of this one isn't all too clear", [("tone", "link", "clear")]),
        ("a warm, clear tone with it", [("tone", "adjective", "clear")]),
        ("it has great sound quality .", [("quality", "adjective", "great")]),
        ("great finish colour", []),
        ("i love the finish", [("finish", "liking", "love")]),
        ("it works like the pedal", []),
        ("they sound warm", [("sound", "sense", "warm")]),
        ("this pedal sounds great", [("pedal", "link", "great"), ("sounds", "sense", "great")]),
        ("with a change of tone , it is fine", []),
        ("my son has it", []),
        ("it is a warm and clear tone .", []),  # what it is, and none of its features
        ("there is a warm tone .", [("tone", "adjective", "warm")]),
        ("the strap of the pedal is loose", [("strap", "link", "loose")]),
        ("the knob for the tone is loose", []),  # said of the knob
        ("most of the finish is flawless", [("finish", "link", "flawless")]),
        ("it also sounds warm", [("sounds", "sense", "warm")]),
        ("it made them sound warm", []),
        ("tone", []),
        ("", []),
    ],
)
def test_remarks(sentence, expected):
    cut, nouns = sentence.split(), {*ABOUT, "sounds"}
    assert [(cut[remark.place], remark.form, remark.opinion) for remark in remarks(cut, nouns)] == expected


def usage_of(*lines):
    usage = Usage()
    for line in lines:
        usage.add(line.split())
    return usage


def test_nouns_by_how_the_reviews_use_them():
    lines = [
        "the tone is warm and we tone it",
        "a good pedal with the works",
        "this pedal goes to my amp",
        "the amp is loud",
    ] * 10
    usage = usage_of(*lines)
    assert usage.nouns("patterns") & {"tone", "pedal", "warm", "goes", "works", "amp", "with"} == {"tone", "amp"}
    assert usage.items() == {"pedal", "amp"}
    assert usage_of(*lines[:4]).nouns("patterns") == frozenset()  # too rare


@wordnet
def test_nouns_by_wordnet():
    lines = ["tone strings price like then hold mic get guitars"] * 10
    assert usage_of(*lines).nouns("wordnet") == {"tone", "strings", "price", "guitars"}


def test_the_lists_do_not_contradict_each_other():
    assert not opinions.VERDICTS & opinions.DESCRIPTIONS and not opinions.OPINIONS & opinions.VAGUE
    assert not opinions.MEASURES & (opinions.VERDICTS | opinions.DESCRIPTIONS)
    assert opinions.ADVERBIAL <= opinions.OPINIONS and opinions.SENSES <= opinions.LINKS
    assert not opinions.SENSES & (opinions.VAGUE | opinions.FUNCTION_WORDS)


# --- the sentence of a review

SAYING = [
    "The tone is warm.", "The neck is thin and fast.", "The finish of it is flawless.",
    "It has a sturdy strap and a great finish.", "The pedal is easy to use.", "A clear tone for the price.", "I love the neck.",
    "This pedal is great.", "I play this pedal into my amp with the strap.",
    "The amp is loud, and the price is fair.",
]  # fmt: skip


@pytest.fixture(scope="module")
def chooser():
    return Chooser(lambda: SAYING * 10, "patterns")


def test_features(chooser):
    # "this pedal" is the item; there is a sturdy strap, but no word that "the strap is" sturdy
    assert chooser.features == {"tone", "neck", "finish", "price", "amp"}
    assert chooser.items == {"pedal", "amp"}


@pytest.mark.parametrize(
    "review, expected",
    [
        ("I bought this for my son. The tone is warm.", ("The tone is warm.", "tone")),
        ("Great finish. The neck is fast. The tone is warm.", ("The neck is fast.", "neck")),  # of equals the first
        ("I love the neck! It has a warm tone.", ("It has a warm tone.", "tone")),
        ("If the tone is warm I am happy. The neck is nice.", ("If the tone is warm I am happy.", "tone")),
        ("This pedal is great. This pedal is sturdy.", None),  # the item is no feature of itself
        ("My amp is loud.", None),
        ("Is the tone warm? Is it? The tone is?", None),
        ("Warm tone.", None),  # two words
        ("The tone " + "and it " * 20 + "is warm.", None),  # more than thirty
        ("Thin neck with it. A thin neck.", None),  # a measure in front of its noun tells it from others
        ("I bought this for my son.", None),
        ("", None),
    ],
)
def test_what_is_chosen(chooser, review, expected):
    assert chooser.choose(review) == expected


def test_a_short_sentence_before_an_equal_long_one(chooser):
    long = "The tone is warm and " + "so " * 18 + "on."
    assert chooser.choose(f"{long} The neck is fast.") == ("The neck is fast.", "neck")
    assert chooser.choose(long) == (long, "tone")


def test_the_words_of_the_chosen_feature_stand_in_the_sentence(chooser):
    assert all(found[1] in words(found[0]) for found in map(chooser.choose, SAYING) if found)
    assert isinstance(remarks(words(SAYING[0]), {"tone"})[0], Remark)


# --- the form


def reviews(folder, count=90, **more):
    """A file of reviews that say two of the things above, the second over two lines."""
    draw = random.Random(0)
    rows = [
        {
            **REVIEW_2014,
            "reviewerID": f"u{n % 9}",
            "asin": f"i{n}",
            "reviewText": f"{draw.choice(SAYING)} So it is.\nOK",
        }
        | more
        for n in range(count)
    ]
    return packed(folder / "r.json.gz", "".join(json.dumps(row) + "\n" for row in rows))


def test_reviews(tmp_path):
    done = convert("reviews", reviews(tmp_path), tmp_path / "out", "r", nouns="patterns")
    assert counts(done) == (9, 90, 90)
    assert done.notes["nouns"] == "patterns" and done.notes["features"] == 5 and 40 < done.notes["explained"] < 90
    manifest = json.loads((done.folder / "r.convert.json").read_text())
    assert manifest["options"]["nouns"] == "patterns" and manifest["result"]["notes"] == done.notes
    dataset = create_dataset(
        Config("BPR", "r", config_dict={"data_path": str(tmp_path / "out"), "load_col": {"inter": "*"}})
    )
    found = dataset.texts["explanation"][dataset.inter_feat["explanation"]]
    features = dataset.field2id_token["feature"][dataset.inter_feat["feature"]]
    assert sum(map(bool, found)) == done.notes["explained"] and set(found) <= {"", *SAYING}
    assert all((feature in words(text)) if text else feature == "[PAD]" for text, feature in zip(found, features))


def test_the_same_input_gives_the_same_bytes_and_another_way_is_another_input(tmp_path, monkeypatch):
    """The folder is part of the input: ``r.yaml`` names it as the data_path."""
    source = reviews(tmp_path)
    made = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert convert("reviews", source, "out", "r", nouns="patterns").fresh
        made.append(contents(tmp_path / place / "out/r"))
    assert made[0] == made[1]
    assert not convert("reviews", source, "out", "r", nouns="patterns").fresh
    if has_wordnet():
        assert convert("reviews", source, "out", "r").fresh and chosen(None) == "wordnet"
    else:
        assert not convert("reviews", source, "out", "r").fresh and chosen(None) == "patterns"


def test_reviews_of_other_forms_and_of_items(tmp_path):
    newer = {"user_id": "A", "parent_asin": "B", "rating": 4, "timestamp": 1588615855070}
    lines = [json.dumps(newer | {"parent_asin": f"B{n}", "text": SAYING[n % len(SAYING)]}) for n in range(90)]
    items = written(tmp_path / "meta.json", json.dumps({"parent_asin": "B1", "title": "Pipe"}))
    source = written(tmp_path / "r.jsonl", "\n".join([*lines, json.dumps(newer | {"text": None})]))
    done = convert("reviews", source, tmp_path / "out", items=items, nouns="patterns")
    rows = [line.split("\t") for line in (done.folder / "r.inter").read_text().splitlines()]
    assert rows[0] == [
        "user_id:token",
        "item_id:token",
        "rating:float",
        "timestamp:float",
        "explanation:text",
        "feature:token",
    ]
    assert rows[1] == ["A", "B0", "4", "1588615855.07", "The tone is warm.", "tone"] and rows[-1][4:] == ["", ""]
    assert (done.folder / "r.item").read_text().splitlines()[1].split("\t")[:2] == ["B1", "Pipe"]


def test_named_keys_without_rating_and_with_some_times(tmp_path, capsys):
    rows = [{"who": n, "what": n % 7, "body": SAYING[n % len(SAYING)]} for n in range(90)]
    rows[3]["when"] = 12
    source = written(tmp_path / "r.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    keys = ["--user=who", "--item=what", "--text=body", "--time=when", "--nouns=patterns"]
    command = ["convert", "reviews", str(source), f"--out={tmp_path / 'out'}"]
    assert main([*command, *keys]) == 0
    printed = capsys.readouterr().out
    assert "without rating" in printed and "without timestamp" in printed and "89" in printed
    cells = [line.split("\t") for line in (tmp_path / "out/r/r.inter").read_text().splitlines()]
    assert [cell.partition(":")[0] for cell in cells[0]] == [
        "user_id",
        "item_id",
        "timestamp",
        "explanation",
        "feature",
    ]
    assert len(cells) == 91 and [row[2] for row in cells[1:6]] == ["", "", "", "12", ""]
    assert cells[1][:2] == ["0", "0"]  # an id, too
    assert main([*command, *keys, "--rating=stars"]) == 2
    assert "has the key 'stars' that --rating names" in capsys.readouterr().err
    assert main([*command, "--nouns=patterns"]) == 2 and "name their keys with --user" in capsys.readouterr().err


def test_item_nouns_are_found_in_the_data_and_are_no_features():
    usage = usage_of(*["this film is great", "i love the film", "films are great", "the acting is great"] * 5)
    assert usage.names() >= {"film", "films"} and "acting" not in usage.names()


def found_in(*reviews, times=10):
    """The chooser of some reviews, each of them written ``times`` times."""
    return Chooser(lambda: [*reviews] * times, "patterns")


PLOT = "The plot of this film is thin."


def test_what_an_item_is_said_to_be_is_no_feature():
    judged = "The comedy in this film is weak."
    assert found_in(PLOT, judged).features == {"plot", "comedy"}
    kinds = ["It is a comedy.", "This was a really funny comedy.", "It's a slow but charming comedy with a plot."]
    chooser = found_in(PLOT, judged, *kinds)
    assert chooser.features == {"plot"} and chooser.choose("The comedy is great. The plot is odd.") == (
        "The plot is odd.",
        "plot",
    )


def test_a_noun_that_is_rarely_judged_is_no_feature():
    told = [f"The sheriff {verb} the horse." for verb in ("saw", "met", "took", "led", "fed", "rode", "sold")]
    judged = "The sheriff is odd."
    assert found_in(PLOT, judged).features == {"plot", "sheriff"}
    assert found_in(PLOT, judged, *told * 10).features == {"plot"}


def test_few_judgements_make_a_feature_of_what_belongs_to_items():
    judged = [PLOT] * 10 + ["The score is weak.", "The score is dull.", "A great score."] + ["I like the score."] * 2
    told = ["We met in the score.", "He led the score."] * 5
    assert found_in(*judged, *told, times=1).features == {"plot"}
    owned = ["This film has a great score.", "I like the score of this film.", "The film with its score."] * 3
    assert found_in(*judged, *told, *owned, times=1).features == {"plot", "score"}


@pytest.mark.parametrize(
    "sentence, holds",
    [
        ("It has some of the best acting.", True),
        ("One of the best and most clever actors.", False),
        ("This acting is superb.", False),
        ("The film looks odd.", True),
        ("The actor looks odd.", False),
        ("They made it look odd.", False),
    ],
)
def test_a_remark_is_of_the_feature_of_the_item(sentence, holds):
    said = [
        "The acting is great.",
        "The actors of this film are great.",
        "This film looks great.",
        "An actor and the actor saw the film.",
    ]
    assert (found_in(*said).choose(sentence) is not None) == holds


def test_bad_lines_are_counted_once(tmp_path):
    source = reviews(tmp_path)
    lines = [*map(json.dumps, [REVIEW_2014 | {"overall": "many"}]), "{"]
    both = written(tmp_path / "s.json", "\n".join([source_text(source), *lines]))
    with pytest.raises(UserError, match=r"^s.json, line 92: .*nothing was written"):
        convert("reviews", both, tmp_path / "out", nouns="patterns")
    done = convert("reviews", both, tmp_path / "out", on_error="keep", nouns="patterns")
    assert done.n_left_out == 2 and done.interactions == 90


def source_text(path):
    return gzip.decompress(path.read_bytes()).decode()


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["--nouns=list"], "--nouns is one of wordnet, patterns, not 'list'"),
        ([], "holds no feature: there is no noun that 5 reviews hold an opinion of"),
    ],
)
def test_mistakes(tmp_path, capsys, arguments, why):
    source = written(tmp_path / "r.json", json.dumps(REVIEW_2014))
    assert main(["convert", "reviews", str(source), f"--out={tmp_path / 'out'}", *arguments]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "out/r").exists()


def test_wordnet_that_is_missing(monkeypatch, tmp_path, capsys):
    for module in ("nltk", "nltk.corpus"):
        monkeypatch.setitem(sys.modules, module, None)  # it cannot be imported
    source = reviews(tmp_path)
    assert main(["convert", "reviews", str(source), f"--out={tmp_path / 'out'}", "--nouns=wordnet"]) == 2
    assert "pip install 'recbole_persona[text]'" in capsys.readouterr().err
    assert convert("reviews", source, tmp_path / "out").notes["nouns"] == "patterns"


def test_the_command_line_tells_the_way(tmp_path, capsys):
    assert main(["convert", "reviews", str(reviews(tmp_path)), f"--out={tmp_path / 'out'}", "--nouns=patterns"]) == 0
    printed = capsys.readouterr().out
    assert "patterns" in printed and "explained" in printed


# --- the sentences that were read

ROOT = Path(__file__).parent.parent
READ = ROOT / "results/review-sentences.yaml"


@pytest.fixture(scope="module")
def reading():
    """The module ``docs/explanations.py``."""
    specification = importlib.util.spec_from_file_location("reading", ROOT / "docs/explanations.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_of_the_sentences_is_as_its_command_prints_it(reading):
    sets = reading.judged(READ)
    assert reading.page(sets) == READ.with_suffix(".md").read_text(encoding="utf-8")
    for one in sets:
        assert len(one["read"]) == 40 and all(row["feature"] in words(row["sentence"]) for row in one["read"])


def test_a_draw_is_told_by_its_seed_and_waits_for_verdicts(reading, tmp_path):
    folder = convert("reviews", reviews(tmp_path), tmp_path / "out", "r", nouns="patterns").folder
    drawn = reading.draw(folder, 5, 1)
    assert drawn == reading.draw(folder, 5, 1) != reading.draw(folder, 5, 2)
    assert (
        drawn["reviews"] == 90 and drawn["features"] == 5 and {row["sentence"] for row in drawn["read"]} <= set(SAYING)
    )
    with pytest.raises(SystemExit, match="5 sentences have no verdict"):
        reading.judged(written(tmp_path / "drawn.yaml", json.dumps([drawn])))


# --- the real reviews


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
@pytest.mark.parametrize(
    "way, features, explained",
    [("patterns", 113, 2344)],
)
def test_musical_instruments(tmp_path, way, features, explained):
    """The numbers of docs/explanations.md, and the settings that ship."""
    name = "musical-instruments-explained"
    done = convert("reviews", REAL, tmp_path, name, nouns=way)
    assert counts(done) == (1429, 900, 10261)
    assert done.notes == {"nouns": way, "features": features, "explained": explained}
    dataset = create_dataset(Config("BPR", name, config_dict={"data_path": str(tmp_path)}))
    found = dataset.texts["explanation"][dataset.inter_feat["explanation"]]
    assert dataset.inter_num == 10261 and sum(map(bool, found)) == explained
    lengths = [sum(word[0].isalnum() for word in words(text)) for text in found if text]
    assert min(lengths) >= 3 and max(lengths) <= 30
