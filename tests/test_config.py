"""Config: RecBole's precedence, literals that are never evaluated, keys that must exist, no state left behind."""

import copy
import os
import string
import sys
from pathlib import Path

import pytest
import recbole
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import argument_list

import recbole_persona
from recbole_persona.cli import parse_settings
from recbole_persona.config import Config, literal, read_yaml, shipped
from recbole_persona.errors import UserError
from recbole_persona.registry import recbole_model_names
from recbole_persona.runs import _DERIVED, config_hash, plain_config

PROPERTIES = Path(recbole.__file__).parent / "properties"
OF_ALL_TYPES = ["BPR", "MultiVAE", "Pop", "SASRec", "DIN", "S3Rec", "FM", "WideDeep", "CKE", "KGCN", "xgboost", "AMPCF"]
# What RecBole itself asks of a sequential model with cross-entropy.
NO_NEGATIVES = {"train_neg_sample_args": None}


def config(model="BPR", dataset="ml-100k", files=None, **settings):
    return Config(model, dataset, files, settings)


def config_of_any(name, **settings):
    sequential = recbole_persona.registry.get_model(name).type.name == "SEQUENTIAL"
    return config(name, **(NO_NEGATIVES if sequential and name != "DIN" else {}), **settings)


# --- precedence -------------------------------------------------------------------------------------------------------


def test_each_layer_overrides_the_one_below(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("epochs: 11\nlearning_rate: 0.11\nembedding_size: 11\n")
    second.write_text("learning_rate: 0.22\nembedding_size: 22\n")
    plain = config()
    assert plain["epochs"] == yaml.safe_load((PROPERTIES / "overall.yaml").read_text())["epochs"]
    assert plain["embedding_size"] == yaml.safe_load((PROPERTIES / "model/BPR.yaml").read_text())["embedding_size"]
    assert plain["load_col"]["inter"] == [
        "user_id",
        "item_id",
        "rating",
        "timestamp",
    ]  # the data set's file, not sample.yaml
    assert plain["split_seed"] == yaml.safe_load((shipped("properties") / "overall.yaml").read_text())["split_seed"]
    both = config(files=[str(first), str(second)], embedding_size=33)
    assert (both["epochs"], both["learning_rate"], both["embedding_size"]) == (11, 0.22, 33)


def test_our_model_file_stands_between_overall_and_data_set():
    own = yaml.safe_load((shipped("properties") / "model/AMPCF.yaml").read_text())
    made = config("AMPCF")
    assert {key: made[key] for key in own if key != "train_neg_sample_args"} == {
        key: value for key, value in own.items() if key != "train_neg_sample_args"
    }


def test_a_model_begins_with_the_file_of_the_one_that_it_extends():
    base, own = (
        yaml.safe_load((shipped("properties") / f"model/{name}.yaml").read_text()) for name in ("POD", "PeaPOD")
    )
    assert not base.keys() & own.keys()
    made = config("PeaPOD")
    assert made["backbone"] == base["backbone"] and made["n_heads"] == own["n_heads"]

    class Warmer(recbole_persona.registry.get_model("AMPCF")):
        config_defaults = {"n_personas": 7}

    made, plain = config(Warmer), config("AMPCF")
    assert made["n_personas"] == 7 and made["embedding_size"] == plain["embedding_size"]


def test_files_are_read_as_recbole_reads_them(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("learning_rate: 1e-3\nweight_decay: .5\nload_col: {inter: [user_id, item_id]}\n")
    made = config(files=[str(file)])
    assert made["learning_rate"] == 0.001 and made["weight_decay"] == 0.5


# --- literals ---------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(values)
def test_literal_reads_what_repr_writes(value):
    assert literal(repr(value)) == value


@given(st.text())
def test_literal_takes_any_text(text):
    result = literal(text)
    assert isinstance(result, (str, int, float, complex, bool, bytes, tuple, list, dict, set, type(None), type(...)))


@given(values.filter(lambda value: not isinstance(value, str)))
def test_literal_leaves_what_is_no_text(value):
    assert literal(value) is value


@given(st.dictionaries(st.text(string.ascii_letters + "_", min_size=1), values, max_size=5))
def test_settings_come_through_the_command_line(settings):
    assert parse_settings([f"--{key}={value!r}" for key, value in settings.items()]) == settings


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch {file}')", "open('{file}', 'w')", "[print() for _ in '1']"]
)
def test_code_is_text(tmp_path, text):
    file = tmp_path / "ran"
    payload = text.format(file=file)
    yaml_file = tmp_path / "payload.yaml"
    yaml_file.write_text(yaml.safe_dump({"wandb_project": payload}))
    assert literal(payload) == payload
    assert config(wandb_project=payload)["wandb_project"] == payload
    assert config(files=[str(yaml_file)])["wandb_project"] == payload
    assert not file.exists()


def test_yaml_tags_make_no_objects(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("wandb_project: !!python/object/apply:os.system ['touch ran']\n")
    with pytest.raises(UserError, match="line 1 is not valid YAML"):
        read_yaml(file)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recbole_model_names())
def test_every_key_of_recbole_is_known(name):
    """Each model with all that RecBole's files say of it, given as the user's own settings: known, and used."""
    try:
        of_type = config_of_any(name)
    except UserError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise
    own = PROPERTIES / f"model/{name}.yaml"
    settings = plain_config(of_type)
    assert settings.keys() >= (read_yaml(own, of_type.yaml_loader) if own.is_file() else {}).keys()
    assert Config(name, "ml-100k", config_dict=settings).unused_keys == {}


def test_keys_that_only_code_names_are_known():
    for key in ("encoding", "token_num_threshold", "use_filter", "contrast", "nproc"):
        config(**{key: None})


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match="no config key 'learning_rat'; the nearest is 'learning_rate'"):
        config(learning_rat=0.1)
    assert config(learning_rat=0.1, allow_unknown=True)["learning_rat"] == 0.1


def test_an_unknown_key_in_a_file_is_found_too(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("embeding_size: 5\n")
    with pytest.raises(UserError, match="nearest is 'embedding_size'"):
        config(files=[str(file)])


def test_a_key_of_another_model_is_noted():
    made = config(n_layers=3, embedding_size=8, epochs=1, mlp_hidden_size=[4])
    assert made.unused_keys == {"n_layers": "", "mlp_hidden_size": ""}
    assert config("LightGCN", n_layers=3).unused_keys == {}
    assert config("NeuMF", mlp_hidden_size=[4]).unused_keys == {}


def test_a_class_declares_its_keys_and_their_defaults():
    from recbole.model.general_recommender import BPR

    class Own(BPR):
        config_defaults = {"own_width": 4, "embedding_size": 5}

    made = Config(Own, "ml-100k", config_dict={"own_width": 6})
    assert (made["own_width"], made["embedding_size"]) == (6, 5)
    with pytest.raises(UserError, match="nearest is 'own_width'"):
        Config(Own, "ml-100k", config_dict={"own_widht": 6})


# --- nothing outside, nothing left behind -----------------------------------------------------------------------------


def test_sys_argv_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--epochs=77", "--model=Pop", "--no_such_key=1", "x"])
    assert config()["epochs"] != 77
    assert recbole.config.Config("BPR", "ml-100k")["epochs"] != 77


def test_two_configs_in_a_row_are_alike_and_leave_no_state():
    settings = {"train_neg_sample_args": {"distribution": "popularity"}, "eval_args": {"mode": "full"}, "topk": [5, 10]}
    kept = copy.deepcopy(settings)
    lists = copy.deepcopy({name: value for name, value in vars(argument_list).items() if isinstance(value, list)})
    resolvers = copy.deepcopy(list(yaml.FullLoader.yaml_implicit_resolvers))
    first = config("BPR", **settings)
    config("SASRec", **NO_NEGATIVES), config("AMPCF"), config("KGCN")
    second = config("BPR", **settings)
    assert first.final_config_dict == second.final_config_dict and str(first) == str(second)
    assert settings == kept
    assert lists == {name: value for name, value in vars(argument_list).items() if isinstance(value, list)}
    assert resolvers == list(yaml.FullLoader.yaml_implicit_resolvers)


def test_a_changed_config_changes_no_other():
    first, second = config(), config()
    first["eval_args"]["split"]["RS"][0] = 0.5
    first["topk"].append(99)
    assert second["eval_args"]["split"]["RS"][0] == 0.8 and 99 not in second["topk"]


@pytest.mark.parametrize(
    ("shell", "settings", "seen"),
    [
        (None, {}, "0"),
        ("3", {}, "3"),
        ("3", {"gpu_id": 1}, "1"),
        (None, {"use_gpu": False}, ""),
        ("3", {"use_gpu": False}, "3"),
    ],
)
def test_visible_devices(monkeypatch, shell, settings, seen):
    """RecBole sets CUDA_VISIBLE_DEVICES to gpu_id; without a gpu_id of the user's, the shell's own setting stays.

    A run on the CPU leaves it alone: the next run of the process may want the GPU.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shell or "")
    monkeypatch.setattr(recbole_persona.config, "_VISIBLE_AT_START", shell)
    config(**settings)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


# --- the config of a run, written and read again ----------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_ALL_TYPES)
def test_a_written_config_reads_as_it_was(tmp_path, name):
    made = config_of_any(name, epochs=3, learning_rate=0.01)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain_config(made)))
    again = Config(config_file_list=[str(file)])
    different = {
        key: (value, again[key])
        for key, value in made.final_config_dict.items()
        if again[key] != value and key not in ("data_path", "gpu_id")
    }
    assert not different and again.model_class is made.model_class
    assert Path(again["data_path"]).samefile(made["data_path"])
    assert config_hash(again) == config_hash(made)
    assert all(again[key] == made[key] for key in _DERIVED)


def test_the_hash_is_of_what_is_computed(tmp_path):
    same = [
        {},
        {"worker": 2},
        {"gpu_id": "3"},
        {"use_gpu": False},
        {"show_progress": True},
        {"run_dir": "x"},
        {"state": "DEBUG"},
    ]
    same += [{"checkpoint_dir": str(tmp_path)}, {"epochs": 300}, {"log_wandb": True}]
    other = [{"seed": 1}, {"split_seed": 1}, {"epochs": 299}, {"eval_args": {"mode": "uni10"}}, {"embedding_size": 3}]
    assert len({config_hash(config(**settings)) for settings in same}) == 1
    assert len({config_hash(config(**settings)) for settings in [{}, *other]}) == len(other) + 1


# --- one sentence for every mistake -----------------------------------------------------------------------------------

MISTAKES = [
    ({"epochs": "abc"}, "epochs must be a whole number of at least 0; it is 'abc'"),
    ({"epochs": 2.5}, "epochs must be a whole number"),
    ({"epochs": -1}, "epochs must be a whole number"),
    ({"epochs": True}, "epochs must be a whole number"),
    ({"epochs": None}, "epochs must be a whole number"),
    ({"learning_rate": "abc"}, "learning_rate must be a positive number; it is 'abc'"),
    ({"learning_rate": 0}, "learning_rate must be a positive number"),
    ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
    ({"train_batch_size": 0}, "train_batch_size must be a whole number of at least 1"),
    ({"eval_batch_size": -4}, "eval_batch_size must be a whole number of at least 1"),
    ({"embedding_size": -8}, "embedding_size must be a whole number of at least 1"),
    ({"embedding_size": [8]}, "embedding_size must be a whole number of at least 1"),
    ({"seed": -1}, "seed must be a whole number of at least 0"),
    ({"split_seed": 2**40}, r"split_seed must be less than 2\*\*32"),
    ({"topk": 0}, "topk must be a positive whole number or a list of them"),
    ({"topk": [10, "a"]}, "topk must be a positive whole number or a list of them"),
    ({"topk": []}, "topk must be a positive whole number or a list of them"),
    ({"topk": "5,a"}, r"such as \[5,10\]; it is \[5, 'a'\]"),
    ({"metrics": "NDGC"}, "no metric named 'NDGC'; the nearest is 'ndcg'"),
    ({"metrics": "Recall,NDGC"}, "no metric named 'NDGC'; the nearest is 'ndcg'"),
    ({"metrics": 5}, "metrics must be a name or a list of names"),
    ({"metrics": []}, "metrics must be a name or a list of names"),
    ({"shuffle": "yes"}, "shuffle must be True or False; it is 'yes'"),
    ({"learner": "adma"}, "learner must be one of .* the nearest is 'adam'"),
    ({"state": "loud"}, "state must be one of debug"),
    ({"user_inter_num_interval": "5"}, r"user_inter_num_interval must be an interval such as \[5,inf\)"),
    ({"item_inter_num_interval": "[9,2]"}, r"interval \[9, 2\] of item_inter_num_interval is empty"),
    ({"val_interval": {"rating": "[3,"}}, r"val_interval of rating must be an interval"),
    ({"eval_args": "full"}, "eval_args must be a mapping"),
    ({"eval_args": {"splits": {}}}, "A key of eval_args must be one of split.* the nearest is 'split'"),
    ({"eval_args": {"split": {"RS": [1, 1]}}}, "RS in eval_args must be three ratios"),
    ({"eval_args": {"split": {"RS": [0, 1, 1]}}}, "RS in eval_args must be three ratios"),
    ({"eval_args": {"split": "RS"}}, "split in eval_args must be one of {'RS'"),
    ({"eval_args": {"split": {"LS": "both"}}}, "LS in eval_args must be one of valid_and_test"),
    ({"eval_args": {"order": "OT"}}, "order in eval_args must be one of RO, TO"),
    ({"eval_args": {"group_by": "item"}}, "group_by in eval_args must be one of user"),
    ({"eval_args": {"mode": "uni"}}, "mode in eval_args must be full, labeled, uniN or popN"),
    ({"eval_args": {"mode": {"vaild": "full"}}}, "A key of mode in eval_args must be one of valid, test"),
    ({"train_neg_sample_args": 5}, "train_neg_sample_args must be a mapping or None"),
    ({"train_neg_sample_args": {"sample_num": 0}}, "sample_num in train_neg_sample_args must be a whole number from 1"),
    ({"train_neg_sample_args": {"distribution": "normal"}}, "distribution in train_neg_sample_args must be one of"),
    ({"train_neg_sample_args": {"number": 3}}, "A key of train_neg_sample_args must be one of"),
    ({"load_col": ["user_id"]}, "load_col must be a mapping"),
    ({"load_col": {"inter": "user_id"}}, "load_col of 'inter' must be a list of columns"),
    ({"clip_grad_norm": 5}, "clip_grad_norm must be like {'max_norm': 5}"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISTAKES, ids=[str(settings) for settings, _ in MISTAKES])
def test_a_wrong_value_is_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        config(**settings)
    text = str(raised.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((None, "ml-100k"), "Name a model: --model=…"),
        (("BPR", None), "Name a dataset: --dataset=…"),
        (("BRP", "ml-100k"), "no model named 'BRP'; the nearest is 'BPR'"),
        (("BPR", "ml-100"), "no data set 'ml-100' in dataset; shipped are ml-100k"),
        (("no_such_module_here:Model", "ml-100k"), "no module 'no_such_module_here'"),
        (("json:Model", "ml-100k"), "module 'json' has no 'Model'"),
        (("json:loads", "ml-100k"), "is no model class"),
        (("BPR", "ml-100k", ["no.yaml"]), "no config file no.yaml"),
    ],
)
def test_a_wrong_name_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Config(*arguments)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: [1\nseed: 2\n", "line 2 is not valid YAML"),
        ("epochs 5\n", "holds no `key: value` lines"),
        ("- epochs\n", "holds no `key: value` lines"),
        ("5: 6\n", "5 is no name of a setting|no config key 5"),
        ("a: *b\n", "line 1 is not valid YAML"),
        ("\tepochs: 5\n", "line 1 is not valid YAML"),
        (b"epochs: \xff\xfe5\n", "not a text file in UTF-8"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "broken.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence):
        config(files=[str(file)])


def test_what_recbole_refuses_is_a_sentence_too():
    class Own(SequentialRecommender):
        """A class that says neither what its loss is nor what a batch holds."""

    with pytest.raises(UserError, match=r"RecBole refuses these settings: Either Model has attr .*loss_type"):
        Config(Own, "ml-100k")


def test_cross_entropy_takes_no_negatives_and_says_so():
    made = config("SASRec")
    assert made["train_neg_sample_args"]["distribution"] == "none"
    assert made.notes == [
        "SASRec with loss_type CE compares each target with all items: train_neg_sample_args is set to None."
    ]
    assert config("SASRec", train_neg_sample_args=None).notes == config("BPR").notes == []
    assert config("SASRec", loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    for model in ("BPR", "SASRec"):  # RecBole refuses the word, and means None by it
        assert (
            config(model, train_neg_sample_args={"distribution": "none"})["train_neg_sample_args"]["distribution"]
            == "none"
        )
    with pytest.raises(UserError, match=r"loss_type of SASRec is 'XX', for which no negatives .* to BPR or CE"):
        config("SASRec", loss_type="XX")
    with pytest.raises(
        UserError, match=r"SASRec with loss_type CE .*; leave train_neg_sample_args out, or set loss_type"
    ):
        config("SASRec", train_neg_sample_args={"distribution": "uniform", "sample_num": 1})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"metrics": "NDCG,Recall"}, ["NDCG", "Recall"]),
        ({"topk": "5,10"}, [5, 10]),
        ({"topk": (5, 10)}, [5, 10]),
        ({"user_inter_num_interval": "[2,10]"}, "[2, 10]"),
        ({"benchmark_filename": "train,test"}, ["train", "test"]),
        ({"benchmark_filename": "train"}, ["train"]),
        ({"alias_of_item_id": "item_id_list"}, ["item_id_list"]),
    ],
)
def test_values_are_read_as_their_defaults_are_declared(given, read):
    ((key, value),) = given.items()
    assert config(**{key: value}, **({} if key != "topk" else {"valid_metric": "MRR@10"}))[key] == read


def test_eval_args_in_part_are_completed_from_the_model_type():
    """RecBole takes its general defaults: a sequential model would be split at random."""
    mode = {"eval_args": {"mode": "uni100"}, "train_neg_sample_args": None}
    found = Config("SASRec", "ml-100k", config_dict=mode)["eval_args"]
    assert (found["split"], found["order"]) == ({"LS": "valid_and_test"}, "TO")
    assert found["mode"] == {"valid": "uni100", "test": "uni100"}
    general = Config("BPR", "ml-100k", config_dict={"eval_args": {"mode": "uni100"}})["eval_args"]
    assert (general["split"], general["order"]) == ({"RS": [0.8, 0.1, 0.1]}, "RO")
    own = Config("SASRec", "ml-100k", config_dict={**mode, "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}})[
        "eval_args"
    ]
    assert own["split"] == {"RS": [0.6, 0.2, 0.2]} and own["order"] == "TO"


def test_a_key_that_stands_twice_is_refused_and_one_that_an_alias_brings_is_overridden(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\nseed: 1\nepochs: 4\n")
    with pytest.raises(UserError, match=r"line 3 .*epochs stands twice"):
        Config("BPR", "ml-100k", config_file_list=[str(file)])
    file.write_text("topk: &k [5]\neval_args: &e {order: RO, mode: full}\nneg: {<<: *e, order: TO}\n")
    assert read_yaml(file)["neg"] == {"order": "TO", "mode": "full"}
