"""Tiny language models with random weights, their inputs, random codes, and likelihoods by teacher forcing of every code."""

import numpy as np
import torch
import transformers
from hypothesis import strategies as st

from recbole_persona.lm.tokenizers import trained_tokenizer
from recbole_persona.lm.tree_decoder import read_inputs

VOCABULARY, PAD, END = 40, 0, 1
SIZES = {
    "T5": {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    "Llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "Bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
}
SIZES["MT5"], SIZES["Qwen2"] = SIZES["T5"], SIZES["Llama"] | {"num_key_value_heads": 2}
SIZES["Llama"] = SIZES["Qwen2"]
ENCODER_DECODER = ("T5", "MT5", "Bart")


def tiny_model(kind, dtype=torch.float64, **settings):
    """A model whose distributions are far from uniform."""
    torch.manual_seed(3)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2} if kind == "Bart" else {}
    special = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 2, "decoder_start_token_id": PAD}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, **SIZES[kind], **heads, **special, **settings
    )
    ending = (
        "ForConditionalGeneration" if kind in ENCODER_DECODER else "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    )
    model = getattr(transformers, kind + ending)(config).eval().to(dtype)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if kind not in ENCODER_DECODER and values.dim() > 1:
                values.mul_(4)
            if "relative_attention_bias" in name:
                values.mul_(30)  # positions count
    return model


def tiny_inputs(model, n_rows=3, embedded=False):
    """Inputs of unequal length, padded on the side that the model wants."""
    torch.manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (n_rows, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    if not model.config.is_encoder_decoder:
        mask = mask.flip(1)
    ids = ids.masked_fill(mask == 0, PAD)
    if embedded:
        return {"inputs_embeds": model.get_input_embeddings()(ids).detach(), "attention_mask": mask}
    return {"input_ids": ids, "attention_mask": mask}


def table(codes):
    """(I, T) of lists of tokens; the padding item comes in front."""
    longest = max(map(len, codes))
    return np.array([[-1] * longest, *([*code, *[-1] * (longest - len(code))] for code in codes)])


def random_codes(number, length, n_tokens, seed=0):
    """(number + 1, length): distinct codes in random order, of tokens from 2."""
    generator, codes = np.random.default_rng(seed), set()
    while len(codes) < number:
        codes.add(tuple((2 + generator.integers(0, n_tokens, length)).tolist()))
    codes = sorted(codes)
    generator.shuffle(codes)
    return table(codes)


def uneven_codes():
    """Codes of one to four tokens, some of which begin with another: they need an end."""
    return table(
        [(5,), (5, 6), (5, 6, 7), (8, 9, 9), (8, 9), (10, 3, 3, 3), (11,), (8, 3), (5, 7), (12, 13, 14), (12, 9)]
    )


def prefix_free(codes):
    """Those of some codes that do not begin with another one."""
    return [code for code in codes if not any(code != other and code[: len(other)] == other for other in codes)]


CODES = (
    st.lists(st.lists(st.integers(2, 7), min_size=1, max_size=4).map(tuple), min_size=2, max_size=25, unique=True)
    .map(prefix_free)
    .filter(lambda codes: len(codes) > 1)
)


@torch.no_grad()
def teacher_forced(model, codes, **inputs):
    """(B, I) log-likelihoods of codes (I, T), one item after the other; -inf for the padding item."""
    inputs = read_inputs(model, **inputs)
    mask, embedding = inputs["attention_mask"], model.get_input_embeddings()
    scores = torch.full((len(mask), len(codes)), -torch.inf, dtype=torch.float64, device=mask.device)
    for item, code in enumerate(codes.tolist()):
        code = torch.tensor([token for token in code if token >= 0], dtype=torch.long, device=mask.device)
        if not len(code):
            continue
        code = code.expand(len(mask), -1)
        if model.config.is_encoder_decoder:
            before = torch.nn.functional.pad(code[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
            states = (inputs["encoder_outputs"],)
            logits = model(encoder_outputs=states, attention_mask=mask, decoder_input_ids=before).logits
        else:
            prompt = inputs["inputs_embeds"] if "inputs_embeds" in inputs else embedding(inputs["input_ids"])
            embeds, whole = torch.cat([prompt, embedding(code)], dim=1), torch.cat([mask, torch.ones_like(code)], dim=1)
            positions = (whole.cumsum(1) - 1).clamp(min=0)
            logits = model(inputs_embeds=embeds, attention_mask=whole, position_ids=positions).logits
            logits = logits[:, prompt.shape[1] - 1 : -1]
        scores[:, item] = logits.log_softmax(-1).gather(2, code.unsqueeze(2)).sum((1, 2))
    return scores


def saved_model(kind, place):
    """The folder ``place`` with a model of random weights and its tokenizer, saved as Hugging Face models are.

    Args:
        kind: ``t5`` and ``gpt2`` have one table for what they read and write, ``untied-t5`` and ``llama`` two.
    """
    texts = [f"user {number} chose a_{number}> b_1> c_2> d_3> and liked it very much" for number in range(40)]
    tokenizer = trained_tokenizer(texts, 300)
    torch.manual_seed(0)
    kind, tied = kind.removeprefix("untied-"), kind in ("t5", "gpt2")
    names = {"t5": "T5ForConditionalGeneration", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    sizes = {
        "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "decoder_start_token_id": 0}
    config = getattr(transformers, names[kind].partition("For")[0].removesuffix("LMHeadModel") + "Config")
    # some have more rows than their tokenizer has tokens
    made = config(vocab_size=len(tokenizer) + 7, tie_word_embeddings=tied, **sizes[kind], **special)
    made = getattr(transformers, names[kind])(made)
    if not tied:
        made.config.tie_word_embeddings = False
        made.set_output_embeddings(torch.nn.Linear(32, len(tokenizer) + 7, bias=False))
    made.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
