"""Codes of items on a pretrained model: symbols behind its vocabulary, what they cost, and that no sentence holds one."""

import logging

import pytest
import torch
import upstream_models
import yaml
from small_pod import epoch_losses, held_out, slow_scores, small_pod
from test_backbone import SETTINGS
from test_fused_adam import sign
from tiny_lm import saved_model

from recbole_persona import run
from recbole_persona.config import Config
from recbole_persona.errors import UserError
from recbole_persona.lm.backbone import Backbone
from recbole_persona.lm.logits_memory import BYTES, SHARE, memory_of
from recbole_persona.runner.training import load
from recbole_persona.runs import RunFolder, config_hash
from recbole_persona.upstream.files import write_text

torch.set_num_threads(1)
KINDS = ["t5", "untied-t5", "gpt2", "llama"]
LAYERS = {"t5": ["q", "v"], "untied-t5": ["q", "v"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return upstream_models.write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: saved_model(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def adapted(kind, folders, adapt):
    lora = {"r": 2, "target_modules": LAYERS[kind]} if adapt == "lora" else None
    return {"backbone": str(folders[kind]), "adapt": adapt, "lora": lora}


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_symbols_are_rows_behind_the_tables(folders, kind, adapt):
    """The model gives what transformers gives with its tables resized and the symbols' vectors put into them."""
    backbone = Backbone({**SETTINGS, **adapted(kind, folders, adapt)}, n_symbols=5).eval()
    plain = type(backbone.bare).from_pretrained(folders[kind]).eval()
    old = plain.get_input_embeddings().weight.clone()
    plain.config.tie_word_embeddings = kind in ("t5", "gpt2")
    plain.resize_token_embeddings(len(old) + 5, mean_resizing=False)
    added, head = (
        module.added for module in (backbone.bare.get_input_embeddings(), backbone.bare.get_output_embeddings())
    )
    assert len(old) == backbone.n_tokens and (head is added) == (kind in ("t5", "gpt2"))
    plain.get_input_embeddings().weight[-5:] = added
    plain.get_output_embeddings().weight[-5:] = head
    ids = torch.cat([torch.randint(2, len(old), (3, 4)), len(old) + torch.randint(0, 5, (3, 3))], dim=1)
    torch.testing.assert_close(backbone.embed(ids), plain.get_input_embeddings()(ids))
    torch.testing.assert_close(backbone.bare.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    mask = torch.ones_like(ids)
    found = backbone.logits(backbone.embed(ids), mask, ids.flip(1))
    expected = plain(input_ids=ids, labels=ids.flip(1)).logits
    assert found.shape[-1] == len(old) + 5
    torch.testing.assert_close(found, expected)


def test_a_symbol_begins_as_tokens_are(folders):
    backbone = Backbone({**SETTINGS, "backbone": str(folders["untied-t5"])}, n_symbols=2000)
    for module in (backbone.llm.get_input_embeddings(), backbone.llm.get_output_embeddings()):
        table = (module.table if hasattr(module, "table") else module.head).weight
        torch.testing.assert_close(module.added.mean(dim=0), table.mean(dim=0), atol=0.15, rtol=0)
        torch.testing.assert_close(module.added.std(dim=0), table.std(dim=0), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind, adapt", [("t5", "lora"), ("untied-t5", "frozen"), ("gpt2", "full"), ("llama", "lora")])
def test_they_are_trained_whatever_is_frozen(data, folders, kind, adapt):
    model, loaders = small_pod(data, "POD", **adapted(kind, folders, adapt))
    before = {name: value.clone() for name, value in model.float().named_parameters()}
    means = epoch_losses(model, loaders[0], 1e-2, epochs=3)
    assert means[-1] < means[0] - 0.5
    for name, value in model.named_parameters():
        if "added" in name:
            moved = (value != before[name]).any(dim=1)
            assert moved.sum() > 0.9 * len(moved) and value.dtype == torch.float32
        elif adapt != "full" and "backbone" in name and "lora_" not in name:
            assert torch.equal(value, before[name])
    assert sum("added" in name for name in before) == (1 if kind in ("t5", "gpt2") else 2)


@pytest.mark.parametrize("codes", ["semantic", "collaborative"])
@pytest.mark.parametrize("kind, adapt", [("t5", "lora"), ("untied-t5", "full"), ("gpt2", "lora"), ("llama", "frozen")])
@torch.no_grad()
def test_scores_and_beams_are_those_of_teacher_forcing(data, folders, kind, adapt, codes):
    asked = {**adapted(kind, folders, adapt), "item_codes": codes}
    model, loaders = small_pod(data, rank_by="score", **asked)
    rows = held_out(loaders, 2)
    expected = slow_scores(model, rows)
    torch.testing.assert_close(model.full_sort_predict(rows).view(2, -1), expected)
    model.rank_by, model.n_beams = "beams", model.n_items - 1
    torch.testing.assert_close(model.full_sort_predict(rows).view(2, -1), expected)


def test_codes_are_symbols_in_prompts_and_answers(data, folders, caplog):
    with caplog.at_level(logging.INFO):
        model, loaders = small_pod(data, "POD", backbone=str(folders["t5"]))
    (told,) = [record for record in caplog.records if record.getMessage().startswith("item_codes: ")]
    assert told.levelname == "INFO" and "takes 4.0 tokens, at most 4; 0 of the 120 tokens" in told.getMessage()
    first, end = model.backbone.n_tokens, model.backbone.n_tokens + model.backbone.n_symbols
    assert ((model.answers.values >= first) & (model.answers.values < end)).all()
    assert len(model.answers.values.unique()) == model.backbone.n_symbols
    row = held_out(loaders, 1)
    history = row["item_id_list"][0, : row["item_length"][0]]
    assert torch.equal(model._prompt(row, "sequential").tokens.values, model.answers.take(history).values)
    assert max(model.backbone.tokens("<a_1> and <b_2>")) < first


def test_codes_that_the_tokenizer_spells_are_counted_and_warned_of(data, folders, caplog):
    model, _ = small_pod(data, "POD", backbone=str(folders["t5"]), code_symbols=False)
    (told,) = [record for record in caplog.records if record.getMessage().startswith("item_codes: ")]
    lengths, unknown = model.answers.lengths[1:].double(), model.answers.values == model.backbone.tokenizer.unk_token_id
    assert model.backbone.n_symbols == 0 and lengths.mean() > 8 and told.levelname == "WARNING"
    assert (
        f"takes {lengths.mean():.1f} tokens, at most {int(lengths.max())}; {int(unknown.sum())} of" in told.getMessage()
    )
    assert unknown.any() and "code_symbols: True gives each symbol a token" in told.getMessage()
    assert not any("added" in name for name, _ in model.named_parameters())


def test_a_run_keeps_them(data, folders, tmp_path):
    adapt = adapted("llama", folders, "lora")
    settings = {"data_path": str(data.parent), "use_gpu": False, "epochs": 1, "n_beams": 10, "learning_rate": 0.01}
    settings |= {"metrics": ["NDCG"], "run_dir": str(tmp_path / "run"), **adapt}
    settings["load_col"] = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    test = run("POD", "tiny", config_dict=settings)["test_result"]
    loaded, (fresh, _) = load(tmp_path / "run"), small_pod(data, "POD", **adapt)
    for name, value in loaded.model.named_parameters():
        if "added" in name:
            assert not torch.equal(value.double(), fresh.get_parameter(name))
    rows = held_out((None, None, loaded.test_data))
    scores = loaded.model.full_sort_predict(rows)
    (tmp_path / "run" / "result.json").unlink()
    again = run(resume=str(tmp_path / "run"))
    assert again["test_result"] == test
    torch.testing.assert_close(load(tmp_path / "run").model.full_sort_predict(rows), scores)


# Settings


def test_what_does_not_read_the_setting_has_the_hash_that_it_had(data, folders):
    def hashed(value, **changes):
        config = Config("POD", "tiny", config_dict={"data_path": str(data.parent), "code_symbols": value, **changes})
        if value is None:
            del config.final_config_dict["code_symbols"]
        return config_hash(config)

    pretrained = {"backbone": str(folders["t5"])}
    assert hashed(True, **pretrained) != hashed(False, **pretrained) == hashed(None, **pretrained)
    for same in ({}, {**pretrained, "item_codes": "title", "code_field": "class"}):
        assert hashed(True, **same) == hashed(False, **same) == hashed(None, **same)


def test_a_run_from_before_spells_its_codes(data, folders, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shared = {"data_path": str(data.parent), "backbone": str(folders["t5"])}
    for name, expected in (("POD", False), ("BPR", None)):
        folder.begin(Config(name, "tiny", config_dict=shared if name == "POD" else {"data_path": str(data.parent)}))
        written = yaml.safe_load(folder.config_file.read_text())
        written.pop("code_symbols", None)
        text = yaml.safe_dump(written, sort_keys=True, allow_unicode=True)
        write_text(folder.config_file, text)
        sign(folder, text)
        assert folder.config()["code_symbols"] is expected


# Memory


@pytest.mark.parametrize(
    "settings, positions, other",
    [
        ({"backbone": "untied-t5"}, 4, "code_levels"),
        ({"backbone": "gpt2", "every_prefix": False}, 5, "code_levels"),
        ({"backbone": "gpt2", "MAX_ITEM_LIST_LENGTH": 5}, 4 * 6 + 1, "MAX_ITEM_LIST_LENGTH"),
    ],
)
def test_logits_that_take_too_much_memory_are_refused_before_a_run_begins(
    data, folders, monkeypatch, tmp_path, settings, positions, other
):
    shared = {"data_path": str(data.parent), "use_gpu": False, "run_dir": str(tmp_path / "run"), "metrics": ["NDCG"]}
    shared |= {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, "epochs": 0, "n_beams": 10}
    settings = {**settings, "backbone": str(folders[settings["backbone"]]), "train_batch_size": 32}
    model, loaders = small_pod(data, "POD", **settings)
    rows, tokens = loaders[0].tasks[0].step, model.backbone.n_tokens + model.backbone.n_symbols
    sizes = []
    model.backbone.llm.get_output_embeddings().register_forward_hook(lambda *call: sizes.append(call[2].numel()))
    for batch in loaders[0]:
        model.calculate_loss(batch)
    assert max(sizes) == rows * positions * tokens
    needed = rows * positions * tokens * BYTES
    total = {"value": needed / SHARE}
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": int(total["value"])}))
    model.check_training(loaders[0])
    total["value"] *= 0.99
    with pytest.raises(
        UserError, match=f"{rows} rows x {positions} positions x {tokens} tokens x {BYTES} bytes.*{other}"
    ):
        run("POD", "tiny", config_dict={**shared, **settings})
    assert not RunFolder(tmp_path / "run").started


def test_the_memory_of_this_machine():
    assert 2**28 < memory_of(torch.device("cpu")) < 2**50
