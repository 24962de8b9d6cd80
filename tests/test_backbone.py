"""Backbones from folders: what is read, what is trained, what is refused."""

import json
import shutil

import pytest
import torch
import upstream_models
from small_pod import epoch_losses, small_pod
from tiny_lm import saved_model
from transformers import BertConfig

from recbole_persona.errors import UserError
from recbole_persona.lm.backbone import Backbone, reads_then_writes

torch.set_num_threads(1)
SETTINGS = {
    "adapt": "full",
    "lora": None,
    "dtype": None,
    "attn_implementation": None,
    "gradient_checkpointing": False,
    "trust_remote_code": False,
    "backbone_dropout": 0.0,
    "vocabulary_size": 300,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def folder(request, tmp_path_factory):
    return saved_model(request.param, tmp_path_factory.mktemp(request.param))


def settings_of(folder, **changes):
    return {**SETTINGS, "backbone": str(folder), **changes}


def test_a_folder_is_read_as_it_is(folder):
    backbone = Backbone(settings_of(folder))
    assert backbone.is_seq2seq == reads_then_writes(settings_of(folder)) == ("t5" in folder.name)
    saved = type(backbone.llm).from_pretrained(folder).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in backbone.llm.state_dict().items())
    assert backbone.longest == (None if backbone.is_seq2seq else 1024)
    assert backbone.tokens("user 3") == backbone.tokenizer("user 3", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("asked", [{"item_vectors": True}, {"every_prefix": False}, {"tasks": ["sequential", "topn"]}])
def test_weights_of_half_precision_read_what_is_added_to_their_vectors(data, folder, asked):
    model, loaders = small_pod(data, "POD", backbone=str(folder), dtype="bfloat16", **asked)
    model.float()
    model.backbone.to(torch.bfloat16)
    for batch in loaders[0]:
        assert model.calculate_loss(batch).isfinite()
    rows = loaders[2]._dataset[torch.arange(3)]
    assert model.full_sort_predict(rows).view(3, -1).isfinite().sum() == 21


def test_weights_or_a_tokenizer_that_are_not_there(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        Backbone(settings_of(broken))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a folder with a config\.json"):
        Backbone(settings_of(tmp_path / "empty"))
    silent = shutil.copytree(folder, tmp_path / "silent", ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(UserError, match="cannot write digits"):
        Backbone(settings_of(silent))


def trainable(module):
    return {name for name, value in module.named_parameters() if value.requires_grad}


def test_what_is_trained(folder):
    modules = ["q", "v"] if "t5" in folder.name else ["c_attn"]
    assert trainable(Backbone(settings_of(folder, adapt="frozen"))) == set()
    of_lora = trainable(Backbone(settings_of(folder, adapt="lora", lora={"r": 2, "target_modules": modules})))
    assert of_lora and all("lora_" in name for name in of_lora)
    whole = Backbone(settings_of(folder))
    assert trainable(whole) == {name for name, _ in whole.named_parameters()}


def test_checkpointing_changes_no_gradient(folder):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = Backbone(settings_of(folder, gradient_checkpointing=checkpointing)).train()
        vectors, labels = backbone.embed(torch.arange(12).view(2, 6)), torch.arange(6).view(2, 3)
        mask = torch.ones(2, 6, dtype=torch.bool)
        backbone.logits(vectors, mask, labels if backbone.is_seq2seq else None).logsumexp(dim=-1).sum().backward()
        found.append({name: value.grad for name, value in backbone.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize("adapt", ["lora", "frozen"])
def test_a_model_learns_with_little_or_nothing_of_the_backbone(data, folder, adapt):
    """The prompts and, with LoRA, the adapters bring the loss down; what is frozen stays."""
    modules = ["q", "v"] if "t5" in folder.name else ["c_attn"]
    settings = {"backbone": str(folder), "adapt": adapt, "lora": {"r": 4, "target_modules": modules}}
    model, loaders = small_pod(data, **{**settings, "lora": settings["lora"] if adapt == "lora" else None})
    before = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    means = epoch_losses(model, loaders[0], 1e-2)
    assert means[-1] < means[0] - (0.1 if adapt == "lora" else 0.0)
    assert before and all(
        torch.equal(value.float(), dict(model.named_parameters())[name]) for name, value in before.items()
    )


def test_what_writes_no_text_is_refused(tmp_path):
    BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a bert model, which writes no text"):
        Backbone(settings_of(tmp_path))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_not_whole(folder, tmp_path, missing):
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="cannot be loaded: "):
        Backbone(settings_of(tmp_path))


def test_code_of_others_is_not_run_unasked(tmp_path):
    described = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "theirs.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match="runs code of its own; set trust_remote_code"):
        Backbone(settings_of(tmp_path))


def test_a_tokenizer_needs_an_end(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "tokenizer_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in described.items() if key != "eos_token"}))
    with pytest.raises(UserError, match="has no token for the end of a text"):
        Backbone(settings_of(tmp_path))


def test_lora_is_told_what_it_does_not_know(folder):
    with pytest.raises(UserError, match="lora holds arguments of peft's LoraConfig"):
        Backbone(settings_of(folder, adapt="lora", lora={"rank": 8}))
