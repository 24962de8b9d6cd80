"""Decoding along a trie: against ``generate`` with prefix_allowed_tokens_fn, a beam search in plain loops, and all items."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_lm import CODES, END, PAD, random_codes, table, teacher_forced, tiny_inputs, tiny_model, uneven_codes
from transformers import LogitsProcessorList

from recbole_persona.errors import UserError
from recbole_persona.lm.decoding import Beams, TrieProcessor, beam_search, generate_items
from recbole_persona.lm.tree_decoder import check_decodable, read_inputs, tree_decoder
from recbole_persona.lm.trie import Candidates, Trie

torch.set_num_threads(1)
WAYS = [("T5", False), ("T5", True), ("Llama", False), ("Llama", True)]  # model, inputs_embeds


@pytest.fixture(scope="module")
def models():
    return {kind: tiny_model(kind) for kind in ("T5", "Llama")}


def some_allowed(trie, n_rows=3, seed=0):
    """Candidates with about half of the items."""
    return torch.rand(n_rows, trie.n_items, generator=torch.Generator().manual_seed(seed)) < 0.5


def tries():
    even, narrow = Trie.build(random_codes(60, 3, 8)), Trie.build(random_codes(25, 4, 3))
    return {"even": even, "narrow": narrow, "uneven": Trie.build(uneven_codes(), end=END)}


def start_of(model, inputs):
    """Tokens that stand before a code in ``generate``."""
    return 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1] if "input_ids" in inputs else 0


def generate(model, known, inputs, n_beams, **more):
    """(items, scores) of ``generate``, (B, W) each."""
    settings = {"num_beams": n_beams, "num_return_sequences": n_beams, "length_penalty": 0.0, "do_sample": False}
    settings |= {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": known.longest}
    output = model.generate(**inputs, **settings, **more)
    start, items = start_of(model, inputs), []
    for sequence in output.sequences[:, start:].tolist():
        if known.last_token == END and END in sequence:
            sequence = sequence[: sequence.index(END) + 1]
        node = known.walk(torch.tensor([sequence]))
        items.append(int(known.item[node]) if node >= 0 else 0)
    shape = len(output.sequences) // n_beams, n_beams
    return torch.tensor(items).view(shape), output.sequences_scores.view(shape).double()


def prefix_function(trie, start, allowed=None):
    """``prefix_allowed_tokens_fn`` by looking through all items."""
    codes = {item: trie.codes(torch.tensor(item)).tolist() for item in range(1, trie.n_items)}

    def function(row, sequence):
        prefix = sequence.tolist()[start:]
        possible = [code for item, code in codes.items() if allowed is None or allowed[row, item]]
        continued = {
            code[len(prefix)] for code in possible if len(code) > len(prefix) and code[: len(prefix)] == prefix
        }
        return sorted(continued - {-1}) or [END]

    return function


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", ["even", "narrow", "uneven"])
@pytest.mark.parametrize("kind, embedded", WAYS)
def test_processor_and_own_loop_are_generate_with_a_prefix_function(models, kind, embedded, name, restricted):
    model, trie = models[kind], tries()[name]
    inputs = tiny_inputs(model, embedded=embedded)
    allowed = some_allowed(trie, seed=4) if restricted else None
    candidates = Candidates(trie, allowed) if restricted else None
    n_beams = 3 if name == "uneven" else 7  # at most the items of a row; more than what narrow codes begin with
    start = start_of(model, inputs)
    expected = generate(model, trie, inputs, n_beams, prefix_allowed_tokens_fn=prefix_function(trie, start, allowed))
    processor = LogitsProcessorList([TrieProcessor(trie, start, END, candidates)])
    masked = generate(model, trie, inputs, n_beams, logits_processor=processor)
    assert torch.equal(masked[0], expected[0])
    torch.testing.assert_close(masked[1], expected[1], rtol=0, atol=0)
    own = beam_search(model, trie, n_beams, candidates, **inputs)
    assert torch.equal(own[0], expected[0]) and (own[0] > 0).all()
    torch.testing.assert_close(own[1], expected[1], rtol=1e-5, atol=1e-5)
    more = {"custom_generate": generate_items, "trie": trie, "candidates": candidates}
    custom = generate(model, trie, inputs, n_beams, **more)
    assert torch.equal(custom[0], own[0]) and torch.equal(custom[1], own[1])


@pytest.mark.parametrize("n_beams", [1, 3])
def test_processor_without_beams(models, n_beams):
    """Greedy decoding and sampling: what comes out is an item."""
    model, trie = models["T5"], tries()["even"]
    inputs, processor = tiny_inputs(model), LogitsProcessorList([TrieProcessor(trie, 1, END)])
    settings = {"max_new_tokens": trie.longest, "do_sample": n_beams > 1, "num_return_sequences": n_beams}
    found = model.generate(**inputs, logits_processor=processor, **settings)
    assert (trie.item[trie.walk(found[:, 1:])] > 0).all()


@pytest.mark.parametrize("kind", ["T5", "MT5", "Llama", "Qwen2", "GPT2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_beams_are_all_items(kind, attention):
    """As many beams as items: nothing is lost, and scores are the likelihoods of teacher forcing."""
    causal = kind not in ("T5", "MT5")
    exact = not (
        causal and attention == "eager"
    )  # whose softmax is in single precision, where a double's least is -inf
    dtype = torch.float64 if exact else torch.float32
    model, codes = tiny_model(kind, dtype, attn_implementation=attention), random_codes(25, 4, 3)
    inputs = tiny_inputs(model)
    expected = teacher_forced(model, codes, **inputs)
    items, scores = beam_search(model, Trie.build(codes), len(codes) - 1, **inputs)
    assert torch.equal(items.sort(dim=1).values, torch.arange(1, len(codes)).expand_as(items))
    torch.testing.assert_close(scores.double(), expected.gather(1, items), rtol=0, atol=1e-9 if exact else 1e-4)
    assert (scores.diff(dim=1) <= 0).all()


def slow_beams(codes, score, n_beams):
    """Beam search of one row in plain loops: ``score(prefix, token)`` -> log-probability. [(score, item)]"""
    codes = {tuple(token for token in row if token >= 0): item for item, row in enumerate(codes.tolist()) if item}
    beams, complete = [(0.0, ())], []
    while beams:
        continued = {}
        for total, prefix in beams:
            for code in codes:
                if len(code) > len(prefix) and code[: len(prefix)] == prefix:
                    longer = code[: len(prefix) + 1]
                    continued[longer] = total + score(prefix, longer[-1])
        best = sorted(((total, prefix) for prefix, total in continued.items()), reverse=True)
        complete += [(total, codes[prefix]) for total, prefix in best[:n_beams] if prefix in codes]
        complete = sorted(complete, reverse=True)[:n_beams]
        beams = [(total, prefix) for total, prefix in best if prefix not in codes][:n_beams]
    return complete


@settings(max_examples=60, deadline=None)
@given(CODES, st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1))
def test_beams_are_those_of_loops(codes, n_beams, restricted, seed):
    """Random log-probabilities in place of a model; codes of any lengths."""
    codes = table(codes)
    trie, n_rows = Trie.build(codes), 3
    n_beams = min(n_beams, len(codes) - 1)
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.rand(n_rows, len(trie.token), dtype=torch.float64, generator=generator)  # of the way to each node
    allowed = torch.rand(n_rows, len(codes), generator=generator) < (0.4 if restricted else 2)
    beams = Beams(trie, n_rows, n_beams, Candidates(trie, allowed) if restricted else None)
    rows = torch.arange(n_rows).view(-1, 1, 1)
    while beams.advance(weights[rows, beams.children]):
        pass
    for row in range(n_rows):
        own = codes.copy()
        own[~allowed[row].numpy()] = -1

        def score(prefix, token, row=row):
            return weights[row, trie.walk(torch.tensor([[*prefix, token]]))].item()

        expected = slow_beams(own, score, n_beams)
        found = [(total, item) for total, item in zip(beams.scores[row].tolist(), beams.items[row].tolist()) if item]
        assert [item for _, item in found] == [item for _, item in expected]
        assert [total for total, _ in found] == pytest.approx([total for total, _ in expected])
        assert (beams.scores[row, len(found) :] == -torch.inf).all()


@pytest.mark.parametrize("kind, embedded", WAYS)
@pytest.mark.parametrize("name", ["even", "uneven"])
def test_allowed_normaliser_is_that_of_loops(models, kind, embedded, name):
    """Each token among the allowed ones that may stand there, by the likelihoods of all prefixes."""
    model, trie = models[kind], tries()[name]
    inputs, allowed = tiny_inputs(model, embedded=embedded), some_allowed(trie)
    n_beams = int(allowed[:, 1:].sum(1).max())
    items, scores = beam_search(model, trie, n_beams, Candidates(trie, allowed), "allowed", **inputs)
    codes = [[token for token in code if token >= 0] for code in trie.codes(torch.arange(trie.n_items)).tolist()]
    prefixes = sorted({tuple(code[:length]) for code in codes for length in range(1, len(code) + 1)})
    whole = teacher_forced(model, table(prefixes), **inputs)[:, 1:].tolist()
    for row, own in enumerate(whole):
        possible = [tuple(codes[item]) for item in allowed[row].nonzero().flatten().tolist() if item]
        likelihood = dict(zip(prefixes, own))
        for item, score in zip(items[row].tolist(), scores[row].tolist()):
            expected = 0.0
            for length in range(1, len(codes[item]) + 1):
                taken = tuple(codes[item][:length])
                beside = {code[:length] for code in possible if code[: length - 1] == taken[:-1]}
                among = torch.tensor([likelihood[other] for other in beside], dtype=torch.float64)
                expected += likelihood[taken] - among.logsumexp(0).item()
            assert not item or score == pytest.approx(expected, abs=1e-9)
        assert sorted(item for item in items[row].tolist() if item) == [codes.index(list(code)) for code in possible]


@pytest.mark.parametrize("normalise", ["vocabulary", "allowed"])
@pytest.mark.parametrize("kind", ["T5", "Llama"])
def test_seen_items_are_excluded_and_no_item_comes_twice(models, kind, normalise):
    model, trie = models[kind], tries()["uneven"]
    inputs, allowed = tiny_inputs(model), some_allowed(trie)
    allowed[1], allowed[2] = False, False
    allowed[2, 3] = True  # one item, none at all
    items, scores = beam_search(model, trie, 9, Candidates(trie, allowed), normalise, **inputs)
    assert items.shape == scores.shape == (3, 9)
    for row, found, own in zip(allowed, items.tolist(), scores):
        real = [item for item in found if item]
        assert len(real) == len(set(real)) == min(9, int(row[1:].sum())) and row[real].all()
        assert found[len(real) :] == [0] * (9 - len(real)) and (own[len(real) :] == -torch.inf).all()
        assert own[: len(real)].isfinite().all()


def test_the_input_is_held_once_a_row(models):
    """No copy of it, nor of a cache, for a beam."""
    trie = tries()["even"]
    for kind, cache in (("T5", "cross_attention_cache"), ("Llama", None)):
        decoder = tree_decoder(models[kind], read_inputs(models[kind], **tiny_inputs(models[kind])), trie.longest)
        depth, visible = torch.ones(1, 5, dtype=torch.long), torch.eye(5, dtype=torch.bool).unsqueeze(0)
        with torch.no_grad():
            decoder.extend(torch.full((3, 5), 4), depth, visible, keep=True)
        held = getattr(decoder.cache, cache) if cache else decoder.cache
        assert all(layer.keys.shape[0] == 3 and layer.keys.shape[2] in (6, 11) for layer in held.layers)


def test_more_tokens_than_logits_at_a_time(models, monkeypatch):
    model, trie = models["T5"], tries()["even"]
    inputs = tiny_inputs(model)
    expected = beam_search(model, trie, 5, **inputs)
    monkeypatch.setattr("recbole_persona.lm.tree_decoder.LOGITS", {"cpu": 1})
    found = beam_search(model, trie, 5, **inputs)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_half_precision():
    """bfloat16 weights: close to the same weights in single precision."""
    trie = tries()["even"]
    for kind in ("T5", "Llama"):
        half = tiny_model(kind, torch.bfloat16)
        single = tiny_model(kind, torch.bfloat16).float()
        inputs = tiny_inputs(half)
        items, scores = beam_search(half, trie, 60, **inputs)
        expected = beam_search(single, trie, 60, **inputs)
        assert scores.dtype == torch.float32
        order = items.argsort(1), expected[0].argsort(1)
        difference = (scores.gather(1, order[0]) - expected[1].gather(1, order[1])).abs()
        assert difference.median() < 0.1


@pytest.mark.parametrize("kind, targets", [("T5", ["q", "v"]), ("Llama", ["q_proj", "v_proj"])])
def test_adapters(kind, targets):
    """A model with LoRA, also on the output: its own likelihoods, not those of the weights below."""
    plain, codes = tiny_model(kind), random_codes(25, 4, 3)
    inputs = tiny_inputs(plain)
    before = teacher_forced(plain, codes, **inputs)
    settings = LoraConfig(r=2, target_modules=[*targets, "lm_head"], init_lora_weights=False)
    model = get_peft_model(plain, settings).eval().double()
    expected = teacher_forced(model, codes, **inputs)
    items, scores = beam_search(model, Trie.build(codes), 25, **inputs)
    assert (expected - before)[:, 1:].abs().max() > 0.1
    torch.testing.assert_close(scores, expected.gather(1, items), rtol=0, atol=1e-9)
    among = beam_search(model, Trie.build(table([(5,), (9,), (30,)])), 3, None, "allowed", **inputs)[1]
    single = teacher_forced(model, table([(5,), (9,), (30,)]), **inputs)[:, 1:].log_softmax(dim=1)
    torch.testing.assert_close(among, single.sort(dim=1, descending=True).values)


def test_bad_input(models):
    model, trie = models["T5"], tries()["even"]
    inputs = tiny_inputs(model)
    with pytest.raises(UserError, match="61 beams are more than the 60 items"):
        beam_search(model, trie, 61, **inputs)
    with pytest.raises(UserError, match="normalise is one of vocabulary, allowed, not 'none'"):
        beam_search(model, trie, 3, normalise="none", **inputs)
    with pytest.raises(UserError, match="use token 77; the model's vocabulary has 40"):
        beam_search(model, Trie.build(table([(3, 77), (4, 5)])), 1, **inputs)
    with pytest.raises(UserError, match=r"several lengths must end in the model's end of sequence \(1\)"):
        TrieProcessor(Trie.build(table([(3, 7), (4,)])), 1, END)
    bart = tiny_model("Bart")
    with pytest.raises(UserError, match="BartForConditionalGeneration cannot be decoded along a trie by our own loop"):
        beam_search(bart, trie, 3, **tiny_inputs(bart))
    with pytest.raises(UserError, match="cannot be decoded along a trie"):
        windowed = tiny_model("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0)
        beam_search(windowed, trie, 3, **tiny_inputs(windowed))
    for kind, by_place in (
        ("GPTNeo", {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "hidden_size": 16, "num_heads": 2}),
        ("Falcon", {"alibi": True, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}),
    ):
        config = getattr(transformers, f"{kind}Config")(vocab_size=40, **by_place)
        with pytest.raises(UserError, match="cannot be decoded along a trie"):
            check_decodable(getattr(transformers, f"{kind}ForCausalLM")(config))
    with pytest.raises(UserError, match="plain logits; use its generate with a TrieProcessor"):
        scaled = tiny_model("Llama", logits_scaling=8.0)
        beam_search(scaled, trie, 3, **tiny_inputs(scaled))
    with pytest.raises(ValueError, match="candidates of 4 rows for 3 rows"):
        beam_search(model, trie, 3, Candidates(trie, some_allowed(trie, 4)), **inputs)
    flex = tiny_model("T5")
    flex.decoder.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match="load T5ForConditionalGeneration with attn_implementation sdpa"):
        beam_search(flex, trie, 3, **inputs)


def test_processor_serves_other_models():
    bart, trie = tiny_model("Bart"), tries()["even"]
    inputs = tiny_inputs(bart)
    processor = LogitsProcessorList([TrieProcessor(trie, 1, END)])
    items, _ = generate(
        bart, trie, inputs, 5, logits_processor=processor, forced_bos_token_id=None, forced_eos_token_id=None
    )
    assert (items > 0).all() and all(len(set(row)) == 5 for row in items.tolist())


def test_padding_of_generate_items(models):
    """Codes of several lengths come padded, and without scores generate returns a tensor."""
    model, trie = models["T5"], tries()["uneven"]
    settings = {"num_beams": 6, "num_return_sequences": 2, "max_new_tokens": trie.longest}
    found = model.generate(**tiny_inputs(model), custom_generate=generate_items, trie=trie, **settings)
    items, _ = beam_search(model, trie, 6, **tiny_inputs(model))
    codes = trie.codes(items[:, :2].flatten())
    assert torch.equal(found, torch.nn.functional.pad(codes.masked_fill(codes < 0, PAD), (1, 0), value=PAD))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["T5", "Llama"])
@pytest.mark.parametrize("normalise", ["vocabulary", "allowed"])
def test_same_on_cuda(models, kind, normalise):
    trie, moved = tries()["even"], tries()["even"].cuda()
    model, inputs = tiny_model(kind), tiny_inputs(models[kind])
    allowed = some_allowed(trie)
    expected = beam_search(model, trie, 7, Candidates(trie, allowed), normalise, **inputs)
    model, inputs = model.cuda(), {name: values.cuda() for name, values in inputs.items()}
    items, scores = beam_search(model, moved, 7, Candidates(moved, allowed.cuda()), normalise, **inputs)
    assert torch.equal(items.cpu(), expected[0])
    torch.testing.assert_close(scores.cpu(), expected[1])
