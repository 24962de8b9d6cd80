"""Checkpoints of LoRA and frozen backbones: what is in them, how they are read and resumed, what is refused."""

import copy
import re
import shutil

import pytest
import torch
from recbole.quick_start import load_data_and_model
from safetensors.torch import load_file, save_file
from test_backbone import settings_of, trainable
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import recbole_persona
from recbole_persona.data import planted
from recbole_persona.errors import UserError
from recbole_persona.lm.backbone import Backbone
from recbole_persona.lm.frozen_weights import DIGEST, NAME
from recbole_persona.lm.tokenizers import trained_tokenizer
from recbole_persona.runner import evaluate_run
from recbole_persona.runner.training import load
from recbole_persona.runs import RunFolder
from recbole_persona.train.outside import changed_since, remember
from recbole_persona.upstream.files import load_tree, save_tree

torch.set_num_threads(1)
KINDS = {"lora": "gpt2", "frozen": "t5"}
LORA = {"r": 2, "target_modules": ["c_attn"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: folder of a model with random weights, 5 to 7 MB}."""
    texts = [f"user {number} chose a_{number}> b_1> c_2> d_3> and liked it very much" for number in range(40)]
    tokenizer = trained_tokenizer(texts, 300)
    torch.manual_seed(0)
    of_t5 = {"d_model": 128, "d_kv": 64, "d_ff": 1024, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.1}
    of_gpt2 = {"n_embd": 160, "n_layer": 4, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
    size = len(tokenizer)
    made = {
        "t5": T5ForConditionalGeneration(T5Config(vocab_size=size, decoder_start_token_id=0, **of_t5)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=size, **of_gpt2)),
    }
    places = {kind: tmp_path_factory.mktemp(kind) for kind in made}
    for kind, place in places.items():
        made[kind].save_pretrained(place)
        tokenizer.save_pretrained(place)
    return places


@pytest.fixture(scope="module")
def settings(folders, tmp_path_factory):
    """{adapt: settings of a PeaPOD on that backbone and a small data set}."""
    data = tmp_path_factory.mktemp("data")
    planted.write(data, "small", n_interactions=120, n_users=12, n_items=64, n_tastes=4, seed=1)
    shared = {
        "data_path": str(data),
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating", "feature"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "tasks": ["sequential", "explanation"],
        "metrics": ["NDCG"],
        "valid_metric": "NDCG@5",
        "topk": [5],
        "n_beams": 5,
        "epochs": 2,
        "learning_rate": 0.01,
        "MAX_ITEM_LIST_LENGTH": 3,
        "longest_answer": 5,
        "whole_words": False,  # 512 vectors: nothing beside a backbone of the usual size, but beside this one
        "user_vector_size": 8,
        "n_neighbours": 4,
        "n_heads": 2,
    }
    backbones = {adapt: {"backbone": str(folders[kind]), "adapt": adapt} for adapt, kind in KINDS.items()}
    backbones["lora"]["lora"] = LORA
    return {adapt: shared | backbones[adapt] for adapt in KINDS}


@pytest.fixture(scope="module")
def runs(settings, tmp_path_factory):
    """{adapt: what a finished run returns}."""
    return {
        adapt: recbole_persona.run(
            "PeaPOD", "small", config_dict=one | {"run_dir": str(tmp_path_factory.mktemp(adapt))}
        )
        for adapt, one in settings.items()
    }


@pytest.fixture(params=KINDS)
def run(request, runs):
    return runs[request.param]


# --- whole runs


@pytest.mark.parametrize("adapt", KINDS)
def test_checkpoints_are_a_twentieth_of_the_backbone(adapt, runs, folders):
    whole = (folders[KINDS[adapt]] / "model.safetensors").stat().st_size
    run = RunFolder(runs[adapt]["run_dir"])
    assert whole > 4e6 and run.model_file.stat().st_size < 0.05 * whole
    assert sum(file.stat().st_size for file in run.state_file.parent.iterdir()) < 0.05 * whole
    held = set(load_tree(run.model_file)["state_dict"])
    trained = {
        name for name, value in load(run.path).model.named_parameters(remove_duplicate=False) if value.requires_grad
    }
    assert trained < held and {name for name in held if ".llm." in name} == {
        name for name in trained if ".llm." in name
    }
    assert runs[adapt]["result"]["n_trainable"] < 0.05 * runs[adapt]["result"]["n_parameters"]


def test_every_way_of_reading_a_run_completes_it(run):
    found, _ = evaluate_run(run["run_dir"])
    assert dict(found) == run["test_result"]
    model, other = load(run["run_dir"]).model, load_data_and_model(f"{run['run_dir']}/model.safetensors")[1]
    pairs = zip(model.named_parameters(), other.named_parameters())
    assert all(one == two and torch.equal(value, again) for (one, value), (two, again) in pairs)
    assert len(recbole_persona.recommend(run["run_dir"], ["u1"], topk=3)) == 3
    assert len(recbole_persona.explain(run["run_dir"], "u1", topk=2)) == 2
    assert len(recbole_persona.generate(run["run_dir"], split="test")) == 12


@pytest.mark.parametrize("adapt", KINDS)
def test_resuming_is_exact(adapt, runs, settings, tmp_path):
    def stop(epoch, score):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        recbole_persona.run("PeaPOD", "small", config_dict=settings[adapt] | {"run_dir": str(tmp_path)}, callback=stop)
    resumed = recbole_persona.run(resume=str(tmp_path))
    assert resumed["result"]["epochs"] == 2 and resumed["test_result"] == runs[adapt]["test_result"]
    for file in ("model.safetensors", "state/last.safetensors"):
        straight, again = load_file(f"{runs[adapt]['run_dir']}/{file}"), load_file(tmp_path / file)
        assert straight.keys() == again.keys()
        assert all(torch.equal(value, again[name]) for name, value in straight.items())


def test_another_backbone_is_refused_by_name(run, tmp_path):
    here = RunFolder(run["run_dir"]).config()["backbone"]
    moved = shutil.copytree(here, tmp_path / "moved")
    assert dict(evaluate_run(run["run_dir"], {"backbone": str(moved)})[0]) == run["test_result"]
    weights = load_file(moved / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"need the backbone {re.escape(here)} .*{re.escape(str(moved))}, as loaded"):
        evaluate_run(run["run_dir"], {"backbone": str(moved)})


def test_files_that_hold_the_whole_backbone_are_read(run, tmp_path):
    """As they were written before checkpoints left anything out."""
    old = shutil.copytree(run["run_dir"], tmp_path / "old")
    model = load(old).model
    tree = load_tree(old / "model.safetensors")
    whole = {**model.state_dict(), **whole_state(model)}
    tree["state_dict"] = {name: value for name, value in whole.items() if name.split(".")[-1] not in (NAME, DIGEST)}
    save_tree(tree, old / "model.safetensors")
    found, _ = evaluate_run(old)
    assert dict(found) == run["test_result"]


# --- what is left out


def whole_state(backbone):
    return {name: value.detach().clone() for name, value in backbone.named_parameters(remove_duplicate=False)}


def entries(backbone):
    return set(backbone.state_dict()) - {NAME, DIGEST}


ADAPTERS = [
    {"bias": "all"},
    {"modules_to_save": ["ln_f"]},
    {"init_lora_weights": "pissa"},  # changes the weights that it adapts
    {"use_dora": True},
]


@pytest.mark.parametrize("more", ADAPTERS, ids=lambda more: next(iter(more)))
def test_nothing_that_was_trained_or_changed_is_left_out(folders, more):
    made = [Backbone(settings_of(folders["gpt2"], adapt="lora", lora=LORA | more)) for _ in range(2)]
    with torch.no_grad():
        for value in made[0].parameters():
            value.add_(value.requires_grad * 0.1)
    changed = (
        {name for name in whole_state(made[0]) if "c_attn.base_layer.weight" in name}
        if "init_lora_weights" in more
        else set()
    )
    assert entries(made[0]) == trainable(made[0]) | changed
    made[1].load_state_dict(made[0].state_dict())
    again = whole_state(made[1])
    assert all(torch.equal(value, again[name]) for name, value in whole_state(made[0]).items())


def test_weights_that_are_trained_later_are_saved_from_then_on(folders):
    backbone = Backbone(settings_of(folders["gpt2"], adapt="frozen"))
    assert entries(backbone) == set()
    backbone.llm.transformer.ln_f.requires_grad_(True)
    assert entries(backbone) == {"llm.transformer.ln_f.weight", "llm.transformer.ln_f.bias"}


def test_weights_that_the_folder_lacks_are_saved(folders, tmp_path):
    place = shutil.copytree(folders["gpt2"], tmp_path / "gpt2")
    weights = load_file(place / "model.safetensors")
    lacking = "transformer.h.0.mlp.c_fc.weight"
    save_file({n: w for n, w in weights.items() if n != lacking}, place / "model.safetensors", {"format": "pt"})
    one, other = (Backbone(settings_of(place, adapt="frozen")) for _ in range(2))
    assert entries(one) == {f"llm.{lacking}"}
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.llm.get_parameter(lacking), other.llm.get_parameter(lacking))


def test_a_weight_that_is_missing_is_still_missed(folders):
    backbone = Backbone(settings_of(folders["gpt2"], adapt="lora", lora=LORA))
    state = backbone.state_dict()
    trained = next(name for name in state if "lora_A" in name)
    with pytest.raises(RuntimeError, match=rf"Missing.*{re.escape(trained)}"):
        backbone.load_state_dict({name: value for name, value in state.items() if name != trained})
    whole = whole_state(backbone)
    frozen = next(name for name in whole if "base_layer" in name)
    with pytest.raises(RuntimeError, match=rf"Missing.*{re.escape(frozen)}"):  # a whole one without a digest, cut
        backbone.load_state_dict({name: value for name, value in whole.items() if name != frozen})


def test_whole_states_keep_weights_that_differ_from_the_folder(folders):
    one, other = (Backbone(settings_of(folders["t5"], adapt="frozen")) for _ in range(2))
    state = whole_state(one)
    one.load_state_dict(state)
    assert entries(one) == set()
    tied = {
        "llm.shared.weight",
        "llm.encoder.embed_tokens.weight",
        "llm.decoder.embed_tokens.weight",
        "llm.lm_head.weight",
    }
    for name in tied:
        state[name] += 1
    one.load_state_dict(state)
    assert entries(one) == tied
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.llm.shared.weight, state["llm.shared.weight"])


def test_copies_and_other_precisions_are_left_out_of_alike(folders):
    backbone = Backbone(settings_of(folders["gpt2"], adapt="lora", lora=LORA))
    double = copy.deepcopy(backbone).double()
    assert entries(double) == entries(backbone) == trainable(backbone)
    double.load_state_dict(backbone.state_dict())
    backbone.load_state_dict(double.state_dict())
    half = settings_of(folders["gpt2"], adapt="lora", lora=LORA, dtype="bfloat16")
    with pytest.raises(UserError, match="other weights or another dtype"):
        Backbone(half).load_state_dict(backbone.state_dict())


def test_modules_may_be_wrapped_afterwards(folders):
    backbones = [Backbone(settings_of(folders["t5"], adapt="frozen")) for _ in range(2)]
    for backbone in backbones:
        wrapped = torch.nn.Sequential(backbone.llm.get_input_embeddings(), torch.nn.Linear(128, 128))
        backbone.llm.set_input_embeddings(wrapped)
    places = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    assert entries(backbones[0]) == {f"llm.{place}.1.{name}" for place in places for name in ("weight", "bias")}
    backbones[1].load_state_dict(backbones[0].state_dict())


def test_what_is_left_out_is_not_saved_as_an_attribute(folders):
    """Loading writes to the weights, which counts as a change of whatever attribute lists them."""
    backbone = Backbone(settings_of(folders["t5"], adapt="frozen"))
    backbone.listed = [backbone.llm.shared.weight]
    remember(backbone)
    backbone.load_state_dict(backbone.state_dict())
    assert changed_since(backbone) == {"in_place": {}, "replaced": {}}


def test_a_whole_backbone_is_saved_whole(folders):
    backbone = Backbone(settings_of(folders["t5"]))
    assert set(backbone.state_dict()) == set(whole_state(backbone))
