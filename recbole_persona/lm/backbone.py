"""The language model behind a recommender, with its tokenizer: by id or path, or built from scratch.

Everything that a recommender puts in front of text enters as vectors (``inputs_embeds``), and no class of transformers is
derived from. The symbols of item codes have ids behind those of all tokens; no text holds them, whatever it says.
"""

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    T5Config,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from recbole_persona.errors import UserError, one_sentence
from recbole_persona.lm.added_symbols import add_symbols
from recbole_persona.lm.frozen_weights import FrozenWeights
from recbole_persona.lm.ragged import Ragged
from recbole_persona.lm.tokenizers import trained_tokenizer

SCRATCH = "scratch:"
SIZES = {"tiny": (64, 2, 2), "small": (128, 2, 4), "base": (256, 4, 8)}  # dimensions, layers, heads
ADAPTATIONS = ("full", "lora", "frozen")
IGNORED = -100  # label of a position that is no target


class Backbone(nn.Module):
    """A sequence-to-sequence or causal model of transformers that reads vectors.

    Config keys: ``backbone``, ``vocabulary_size``, ``adapt``, ``lora`` (arguments of peft's ``LoraConfig``), ``dtype``,
    ``attn_implementation``, ``gradient_checkpointing``, ``trust_remote_code``, ``backbone_dropout``.

    Args:
        config: RecBole's.
        texts: iterable of str that a tokenizer from scratch is trained on.
        n_symbols: of item codes, besides the tokens of text.

    Attributes:
        llm: the model. tokenizer: its tokenizer. is_seq2seq: whether it has an encoder.
        frozen: with ``adapt: lora`` and ``frozen``, what leaves weights that are not trained out of checkpoints; else None.
        eos, pad, unknown: ids; there may be no ``unknown``.
        n_symbols: as given. n_tokens: V, how many other tokens the model has; the symbols' ids are V to V + n_symbols - 1.

    Raises:
        UserError: a model that is neither cached nor a folder, or of a kind that cannot be used; a tokenizer without an
            end; a value outside of what docs/language_models.md lists.
    """

    def __init__(self, config, texts=(), n_symbols=0):
        super().__init__()
        _check(config)
        self.frozen = None
        name, self.n_symbols = config["backbone"], n_symbols
        from_scratch = name.startswith(SCRATCH)
        if from_scratch:
            self.tokenizer = trained_tokenizer(texts, config["vocabulary_size"])
            self.n_tokens = len(self.tokenizer)
            self.llm = _from_scratch(name, self.n_tokens + n_symbols, config)
        else:
            self.tokenizer, self.llm, missing = _pretrained(name, config)
            self.n_tokens = len(self.llm.get_input_embeddings().weight)  # a table may have rows that no token has
            if config["adapt"] != "full":
                self.frozen = FrozenWeights(self.llm, name, missing)
        self.is_seq2seq = self.llm.config.is_encoder_decoder
        self.eos, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self.unknown = self.tokenizer.unk_token_id
        if self.eos is None:
            raise UserError(f"The tokenizer of {name} has no token for the end of a text (eos_token).")
        self.pad = self.eos if self.pad is None else self.pad
        if config["gradient_checkpointing"]:
            self.llm.gradient_checkpointing_enable({"use_reentrant": False})
        if config["adapt"] == "frozen":
            self.llm.requires_grad_(False)
        if config["adapt"] == "lora":
            self.llm = _with_lora(self.llm, config["lora"])
        if n_symbols and not from_scratch:
            add_symbols(self.bare, n_symbols)  # last, for they are trained whatever is frozen
        if self.frozen is not None:
            self.frozen.leave_out_of(self)

    @property
    def bare(self):
        """The model without peft's wrapper; its adapters are in force."""
        return self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm

    @property
    def dimension(self):
        return self.llm.get_input_embeddings().embedding_dim

    @property
    def longest(self) -> int | None:
        """Tokens that the model was made for; None where any number will do."""
        limit = getattr(self.llm.config, "n_positions", None) or getattr(
            self.llm.config, "max_position_embeddings", None
        )
        return limit if self.llm.config.model_type not in ("t5", "mt5", "umt5") else None

    def tokens(self, text) -> list[int]:
        """Token ids of a text as it stands inside another: nothing is added to it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def ragged(self, texts) -> Ragged:
        """Token ids of many texts, as :meth:`tokens` gives them."""
        return Ragged.of(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else [])

    def embed(self, ids):
        """Vectors (..., d) of token ids (...)."""
        return self.llm.get_input_embeddings()(ids)

    def token_norm(self) -> float:
        """Mean length of the vectors of tokens: what is put among them should be about as long."""
        with torch.no_grad():
            return self.llm.get_input_embeddings().weight.float().norm(dim=1).mean().item()

    def logits(self, vectors, mask, labels=None, last=0):
        """(B, T, V): of a sequence-to-sequence model for the labels (B, T), of a causal one for what follows each input.

        Args:
            vectors: (B, L, d). mask: (B, L), where there is input.
            last: of a causal model, so many positions at the end; 0 for all.
        """
        if self.is_seq2seq:
            return self.llm(inputs_embeds=vectors, attention_mask=mask, labels=labels).logits
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        options = {"position_ids": positions, "use_cache": False, "logits_to_keep": last}
        return self.llm(inputs_embeds=vectors, attention_mask=mask, **options).logits


def token_loss(logits, labels, reduction="mean"):
    """Cross-entropy of logits (B, T, V) on labels (B, T), ``IGNORED`` left out."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction=reduction)


def takes_symbols(config) -> bool:
    """Whether symbols of item codes are tokens of the backbone: always of one from scratch, else with ``code_symbols``."""
    return config["backbone"].startswith(SCRATCH) or config["code_symbols"]


def reads_then_writes(config) -> bool:
    """Whether the backbone of a config has an encoder and a decoder; a causal one has a decoder alone.

    Raises:
        UserError: as :class:`Backbone`.
    """
    name = config["backbone"]
    return (
        _scratch(name)[0] == "t5" if name.startswith(SCRATCH) else _described(name, config)[1] is AutoModelForSeq2SeqLM
    )


def _scratch(name):
    """The kind and the size that a name says."""
    found = re.fullmatch(SCRATCH + r"(?:(t5|gpt2)-)?(\w+)", name)
    if not found or found[2] not in SIZES:
        raise UserError(f"A backbone from scratch is {SCRATCH}[gpt2-|t5-]{{{', '.join(SIZES)}}}, not {name!r}.")
    return found[1] or "gpt2", found[2]


def _from_scratch(name, vocabulary, config):
    kind, size = _scratch(name)
    size, layers, heads = SIZES[size]
    dropout = config["backbone_dropout"]
    if kind == "gpt2":
        made = GPT2Config(
            vocab_size=vocabulary, n_embd=size, n_layer=layers, n_head=heads, n_positions=1024, resid_pdrop=dropout,
            embd_pdrop=dropout, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
            activation_function="gelu_pytorch_tanh",  # one kernel, as is attention without dropout on a CPU
        )  # fmt: skip
        try:
            return AutoModelForCausalLM.from_config(made, attn_implementation=config["attn_implementation"] or "sdpa")
        except (ImportError, ValueError) as error:
            raise UserError(f"attn_implementation: {one_sentence(error)}") from None
    made = T5Config(
        vocab_size=vocabulary, d_model=size, d_kv=size // heads, d_ff=4 * size, num_layers=layers, num_heads=heads,
        dropout_rate=dropout, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(made)


def _described(name, config):
    """The config of a pretrained model on this machine, the class that loads it, and what both are loaded with."""
    options = {"trust_remote_code": bool(config["trust_remote_code"]), "local_files_only": True}
    try:
        made = AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise UserError(
                f"{name} runs code of its own; set trust_remote_code: True if you trust its authors."
            ) from None
        raise UserError(
            f"There is no model {name!r}: it is neither a folder with a config.json that can be read nor in the cache "
            f"({_cache()}); give a folder that holds config.json and the weights, or fetch it first with `hf download`, or "
            "use scratch:small."
        ) from None
    kinds = (
        (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
        (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    )
    kind = next((auto for mapping, auto in kinds if type(made) in mapping), None)
    reads_both_ways = type(made) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(made, "is_decoder", False)
    if kind is None or (kind is AutoModelForCausalLM and reads_both_ways):
        raise UserError(
            f"{name} is a {made.model_type} model, which writes no text; a backbone is a T5, a Llama or alike."
        )
    return made, kind, options


def _pretrained(name, config):
    """The tokenizer, the model, and the names of weights that its files lack."""
    _, kind, options = _described(name, config)
    numbers = {"dtype": config["dtype"] or "auto"}
    if config["attn_implementation"]:
        numbers["attn_implementation"] = config["attn_implementation"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model, found = kind.from_pretrained(name, output_loading_info=True, **options, **numbers)
    except (ImportError, OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{name} cannot be loaded: {one_sentence(error)}") from None
    digits = tokenizer("0 1 2 3 4 5 6 7 8 9", add_special_tokens=False)["input_ids"]
    if not digits or tokenizer.unk_token_id in digits:
        raise UserError(f"The tokenizer of {name} cannot write digits; are its files missing?")
    model.config.tie_word_embeddings = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return tokenizer, model, found["missing_keys"]


def _cache():
    return os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"


def _with_lora(llm, settings):
    from peft import LoraConfig, get_peft_model

    try:
        return get_peft_model(llm, LoraConfig(**(settings or {"r": 8})))
    except (TypeError, ValueError) as error:
        raise UserError(f"lora holds arguments of peft's LoraConfig: {error}") from None


def _check(config):
    """UserError for values that mean nothing."""
    if config["adapt"] not in ADAPTATIONS:
        raise UserError(f"adapt is one of {', '.join(ADAPTATIONS)}, not {config['adapt']!r}.")
    if config["dtype"] is not None and not isinstance(getattr(torch, str(config["dtype"]), None), torch.dtype):
        raise UserError(f"dtype is one of torch's, such as bfloat16, not {config['dtype']!r}.")
    if config["adapt"] != "full" and config["backbone"].startswith(SCRATCH):
        raise UserError(f"A backbone from scratch has learned nothing yet: adapt: full, not {config['adapt']}.")
    if config["backbone_dropout"] is None or not 0 <= config["backbone_dropout"] < 1:
        raise UserError(f"backbone_dropout is a share from 0, below 1, not {config['backbone_dropout']!r}.")
