"""A language model's decoder over the nodes of a trie: many continuations of one input as one sequence.

The nodes of a row stand side by side in one sequence, each at the position of its depth; a mask lets a node attend to the
row's input, to its ancestors and to itself. Its state is then that of its prefix decoded alone (as in SpecInfer's tree
attention, Miao et al., ASPLOS 2024), while what belongs to the input (an encoder's keys and values, a prompt's cache) is
held and read once a row, not once a beam, and no cache is ever reordered or copied for a beam.

Shapes: B rows, S tokens of the input, V tokens of the vocabulary, d dimensions, n nodes at a time, k nodes kept from before.
"""

import inspect

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from recbole_persona.errors import UserError

LOGITS = {"cpu": 2**22, "cuda": 2**26}  # logits at a time
SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


def read_inputs(model, attention_mask=None, encoder_outputs=None, inputs_embeds=None, input_ids=None) -> dict:
    """A batch of inputs as tensors that can be cut into rows: the encoder is run where it has not been.

    Args:
        model: of transformers, with a language modelling head, in evaluation mode.
        attention_mask: (B, S), all ones if None. A decoder-only model's inputs are padded on the left.
        encoder_outputs: (B, S, d) or what the encoder returned; of an encoder-decoder model.
        inputs_embeds: (B, S, d), or ``input_ids`` (B, S).
    """
    if encoder_outputs is not None:
        states = encoder_outputs if isinstance(encoder_outputs, torch.Tensor) else encoder_outputs[0]
        inputs = {"encoder_outputs": states}
    elif inputs_embeds is not None:
        inputs = {"inputs_embeds": inputs_embeds}
    else:
        inputs = {"input_ids": input_ids}
    (given,) = inputs.values()
    mask = given.new_ones(given.shape[:2], dtype=torch.long) if attention_mask is None else attention_mask
    if model.config.is_encoder_decoder and encoder_outputs is None:
        inputs = {"encoder_outputs": model.get_encoder()(attention_mask=mask, **inputs)[0]}
    return {"attention_mask": mask, **inputs}


def tree_decoder(model, inputs, longest):
    """The decoder for a batch of :func:`read_inputs` and codes of ``longest`` tokens at most.

    Raises:
        UserError: a model whose positions or attention masks cannot be given.
    """
    check_decodable(model)
    if model.config.is_encoder_decoder:
        return T5TreeDecoder(model, inputs, longest)
    return CausalTreeDecoder(model, inputs, DynamicCache(config=model.config))


def check_decodable(model):
    """UserError for a model that :func:`tree_decoder` cannot run."""
    name, decoder, config = type(model).__name__, model.get_decoder(), model.config
    if decoder.config._attn_implementation not in ("eager", "sdpa"):
        raise UserError(
            f"Decoding along a trie needs attention that takes any mask: load {name} with attn_implementation sdpa."
        )
    if config.is_encoder_decoder and config.model_type in ("t5", "mt5"):
        return
    if not config.is_encoder_decoder and "position_ids" in inspect.signature(decoder.forward).parameters:
        changed = any(getattr(config, key, None) not in (None, 1) for key in SCALED_LOGITS)
        by_place = getattr(config, "alibi", False) or "local" in (getattr(config, "attention_layers", None) or ())
        cache = DynamicCache(config=config)
        if not changed and not by_place and not any(cache.is_sliding) and not any(cache.is_linear):
            return
    raise UserError(
        f"{name} cannot be decoded along a trie by our own loop, which knows T5, MT5 and causal models with "
        "position_ids, full attention and plain logits; use its generate with a TrieProcessor."
    )


class TreeDecoder:
    """What the two kinds share. ``root`` (B, d) is the state from which first tokens are predicted.

    A state times the output embedding is the logits of what follows it.
    """

    def __init__(self, model):
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.kept = None  # (1 or B, k) depths of the nodes whose keys are kept

    def __len__(self):
        return len(self.root)

    def extend(self, tokens, depth, visible, keep):
        """States of further nodes.

        Args:
            tokens: (B, n) that lead to the nodes.
            depth: (1 or B, n), from 1.
            visible: (1 or B, n, k + n) bool, of the nodes kept before and these: the ancestors and the node itself.
            keep: whether the nodes are ancestors of later ones.

        Returns:
            (B, n, d).
        """
        depths = depth if self.kept is None else torch.cat([self.kept.expand(len(depth), -1), depth], dim=1)
        states = self._states(tokens, depths, visible)
        if keep:
            self.kept = depths
        else:
            self.cache.crop(-tokens.shape[1])
        return states

    def log_probs(self, states, row, token):
        """Log-probabilities of tokens over the whole vocabulary.

        Args:
            states: (R, d).
            row: (E,) rows of ``states``, not falling.
            token: (E,) what follows each.

        Returns:
            (E,) in single precision or better.
        """
        size = max(1, LOGITS.get(states.device.type, 2**24) // self.head.out_features)
        starts = torch.arange(0, len(states) + size, size, device=states.device)
        bounds, found = torch.searchsorted(row, starts).tolist(), []
        for number, chunk in enumerate(states.split(size)):
            logits = _single(self.head(chunk))
            edges = slice(bounds[number], bounds[number + 1])
            place = row[edges] - number * size
            found.append(logits[place, token[edges]] - logits.logsumexp(dim=1)[place])
        return torch.cat(found)

    def logits(self, states, tokens):
        """(..., d) states, (U,) tokens -> (..., U) logits of these tokens, without those of others."""
        if type(self.head) is not nn.Linear:  # rows of an adapter's, an extended or a quantised one cannot be taken
            return _single(self.head(states)[..., tokens])
        bias = None if self.head.bias is None else self.head.bias[tokens]
        return _single(nn.functional.linear(states, self.head.weight[tokens], bias))


class CausalTreeDecoder(TreeDecoder):
    """A decoder-only model: the prompt's last token is the root."""

    def __init__(self, model, inputs, cache):
        super().__init__(model)
        self.cache, mask = cache, inputs["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states = self.decoder(**inputs, position_ids=positions, past_key_values=cache, use_cache=True)[0]
        self.root, self.prompt, self.length = states[:, -1], mask.bool(), mask.sum(dim=1, keepdim=True)

    def _states(self, tokens, depths, visible):
        new = tokens.shape[1]
        rows = [part.expand(len(tokens), new, -1) for part in (self.prompt.unsqueeze(1), visible)]
        mask = _additive(torch.cat(rows, dim=2), self.root.dtype)  # (B, 1, n, S + k + n)
        positions = self.length - 1 + depths[:, -new:]
        return self.decoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )[0]


class T5TreeDecoder(TreeDecoder):
    """T5 and MT5: the start token is the root. Its blocks are called one by one, for the positions stand in a
    bias of the attention that its stack makes from places in the sequence."""

    def __init__(self, model, inputs, longest):
        super().__init__(model)
        config, states = model.config, inputs["encoder_outputs"]
        # before transformers 5 it is what ties the output to the shared embedding; MT5 never does it
        scaled = config.model_type == "t5" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        self.scale = config.d_model**-0.5 if scaled else 1.0
        self.encoded, self.cache = states, EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.encoded_mask = _additive(inputs["attention_mask"].bool().unsqueeze(1), states.dtype)  # (B, 1, 1, S)
        self.bias = self.decoder.block[0].layer[0].SelfAttention.compute_bias(longest + 1, longest + 1)[0]  # (H, ., .)
        start = states.new_full((len(states), 1), config.decoder_start_token_id, dtype=torch.long)
        depth, visible = torch.zeros_like(start[:1]), torch.ones_like(start[:1, :, None], dtype=torch.bool)
        self.root = self._run(start, depth, visible)[:, 0]

    def _states(self, tokens, depths, visible):
        with_root = nn.functional.pad(depths, (1, 0)), nn.functional.pad(visible, (1, 0), value=True)
        return self._run(tokens, *with_root)

    def _run(self, tokens, depths, visible):
        own = depths[:, -tokens.shape[1] :]
        bias = self.bias[:, own.unsqueeze(2), depths.unsqueeze(1)].transpose(0, 1)  # (1 or B, H, n, 1 + k + n)
        states, mask, cross_bias = self.decoder.embed_tokens(tokens), _additive(visible, self.bias.dtype), None
        for block in self.decoder.block:
            states, _, cross_bias = block(
                states, mask, bias, self.encoded, self.encoded_mask, cross_bias, past_key_values=self.cache
            )
        return self.decoder.final_layer_norm(states) * self.scale


def _additive(visible, dtype):
    """(B, n, m) bool -> (B, 1, n, m), what attention adds to its scores."""
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def _single(logits):
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
