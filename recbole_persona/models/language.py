"""What all recommenders with a language model have in common; a subclass says only what the context of a user is.

A row becomes [context; prompt], vectors that the backbone reads, and an answer that it should write: the code of an item,
or a sentence. Settings, formulas and cost: docs/language_models.md.

Shapes: B rows, P vectors of context, L tokens, d dimensions of the backbone's tokens, I items (padding included).
"""

import hashlib
import logging
from contextlib import contextmanager

import torch
from recbole.data.interaction import Interaction
from recbole.evaluator.register import metric_types
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import EvaluatorType, InputType
from torch import nn
from transformers import LogitsProcessorList

from recbole_persona.data.histories import SEEN
from recbole_persona.data.texts import text_store
from recbole_persona.errors import UserError
from recbole_persona.lm.added_symbols import NoSymbols
from recbole_persona.lm.backbone import IGNORED, Backbone, takes_symbols, token_loss
from recbole_persona.lm.decoding import beam_search
from recbole_persona.lm.item_codes import CODES, FIXED_LENGTH, code_tokens, item_codes
from recbole_persona.lm.logits_memory import check_logits
from recbole_persona.lm.ragged import Ragged, concatenated
from recbole_persona.lm.ranking import score_items
from recbole_persona.lm.sentences import longest_answer, with_ends
from recbole_persona.lm.task_batches import CANDIDATES, TASK, takes_every_prefix
from recbole_persona.lm.tasks import TASKS, Prompts, Writer, literal_text, named_texts, templates_of
from recbole_persona.lm.tree_decoder import check_decodable
from recbole_persona.lm.trie import Candidates, Trie

RANKINGS = ("beams", "score")
WORDS = 512  # whole-word ids
AT_ONCE = 64  # held-out rows that the backbone reads at a time


class LanguageRecommender(SequentialRecommender):
    """A language model that recommends and explains.

    Config keys: those of :class:`Backbone`, ``tasks``, ``templates``, ``item_codes``, ``code_field``, ``code_symbols``,
    ``every_prefix``, ``whole_words``, ``item_vectors``, ``padding_in_loss``, ``explanation_field``, ``longest_answer``,
    ``rank_by``, ``n_beams``, ``text_beams``.

    Raises:
        UserError: a value outside of what docs/language_models.md lists, a task without its column.
    """

    input_type = InputType.POINTWISE  # RecBole adds no negatives
    reads_seen = True  # beams look for what is not in the column SEEN
    reads_fields = ("explanation_field",)
    reads_when_loaded = (
        "backbone", "trust_remote_code", "attn_implementation", "rank_by", "n_beams", "text_beams", "longest_answer",
    )  # fmt: skip

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.tasks = list(config["tasks"])
        _check(config, self.tasks, dataset.item_num - 1)
        self.text_field = config["explanation_field"]
        self.rank_by, self.n_beams = config["rank_by"], config["n_beams"]
        self.text_beams = config["text_beams"]
        self.templates = {task: templates_of(config, task) for task in self.tasks}
        templates = [text for texts in self.templates.values() for text in texts]
        writes = "explanation" in self.tasks
        store = text_store(dataset, self.text_field, "The task explanation") if writes else None
        learned = store[dataset.inter_feat[self.text_field].unique()] if writes else []  # of the training part
        codes = item_codes(config, dataset)
        named = named_texts(dataset, templates)
        shown = [text for texts in named.values() for text in texts]
        spelled = () if codes.words else codes.texts
        n_symbols = len(codes.words) if takes_symbols(config) else 0
        self.backbone = Backbone(config, [*learned, *shown, *spelled, *map(literal_text, templates)], n_symbols)
        self.is_causal = not self.backbone.is_seq2seq
        self.every_prefix = takes_every_prefix(config)
        if config["padding_in_loss"] and self.is_causal:
            raise UserError(
                "padding_in_loss is for a backbone that has an encoder and a decoder, such as scratch:t5-small."
            )
        self.unanswered = self.backbone.pad if config["padding_in_loss"] else IGNORED
        pieces = {name: self.backbone.ragged(texts) for name, texts in named.items()}
        pieces["item"] = code_tokens(codes, self.backbone)
        self.writers = {task: Writer(texts, self.backbone.tokens, pieces) for task, texts in self.templates.items()}
        end = [] if config["item_codes"] in FIXED_LENGTH else [self.backbone.eos]
        self.answers = concatenated([pieces["item"], Ragged.of([[]] + [end] * (self.n_items - 1))])
        self.trie = Trie.build(self.answers.padded(fill=-1)[0])
        self.register_buffer("codes", _digest(self.answers))
        if any(TASKS[task].target == "item" for task in self.tasks):
            check_decodable(self.backbone.bare)
        self.longest_answer = self.sentences = None
        if writes:
            whole = with_ends(self.backbone.ragged([store[place] for place in range(len(store))]), self.backbone.eos)
            taught = dataset.inter_feat[self.text_field]
            taught = taught[torch.from_numpy(store.filled(taught))]
            self.longest_answer = longest_answer(config["longest_answer"], whole.lengths[taught])
            self.sentences = whole.first(self.longest_answer)  # what is cut has no end: none was written there
        size = self.backbone.dimension
        self.word_embedding = nn.Embedding(WORDS, size, padding_idx=0) if config["whole_words"] else None
        if self.word_embedding is not None:
            nn.init.normal_(self.word_embedding.weight, std=self.backbone.token_norm() / size**0.5)
            self.word_embedding.weight.data[0] = 0
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0) if config["item_vectors"] else None
        if self.item_embedding is not None:
            nn.init.zeros_(self.item_embedding.weight)  # an item that is never met is known by its code alone

    def _load_from_state_dict(self, state_dict, prefix, *others):
        """Codes are computed again when a run is loaded; with another backbone they would differ, too."""
        if self.backbone.frozen is not None:
            self.backbone.frozen.check(state_dict, f"{prefix}backbone.")
        if not torch.equal(state_dict.setdefault(f"{prefix}codes", self.codes).cpu(), self.codes.cpu()):
            raise UserError(
                "These weights were trained with other codes of items than those that are made here: with other data, "
                "texts or settings, or by other versions of scikit-learn or tokenizers; read them there, or train again."
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    # The context

    def context(self, interaction, task):
        """(B, P, d), what stands in front of the prompt of each row."""
        raise TypeError(f"{type(self).__name__} says nothing about the user")

    # The loss

    def calculate_loss(self, interaction):
        """Mean cross-entropy of the answers' tokens; the batch is of one task (recbole_persona.lm.task_batches)."""
        task = self.tasks[int(interaction[TASK][0])]
        choice = len(self.templates[task])
        template = int(torch.randint(choice, ())) if choice > 1 else 0
        if task == "sequential" and self.every_prefix:
            return self._prefix_loss(interaction, template)
        prompt, answer = self._prompt(interaction, task, template), self._answers(interaction, task)
        if self.is_causal:
            return self._causal_loss(interaction, task, prompt.followed_by(Prompts.of(answer)), answer, side="left")
        vectors, mask = self._vectors(interaction, task, prompt)
        labels, _ = answer.padded(fill=self.unanswered)
        labels = labels.to(vectors.device)
        return token_loss(self.backbone.logits(vectors, mask, labels), labels)

    def _prefix_loss(self, interaction, template):
        """Every item of a window, asked for after all that stand in front of it, in one pass."""
        rows = {name: interaction[name].cpu() for name in (self.ITEM_SEQ, f"next_{self.ITEM_SEQ}", self.ITEM_SEQ_LEN)}
        length, following = rows[self.ITEM_SEQ_LEN], rows[f"next_{self.ITEM_SEQ}"]
        inside = torch.arange(following.shape[1]) < length.unsqueeze(1)
        shown = torch.cat([rows[self.ITEM_SEQ], torch.zeros_like(length).unsqueeze(1)], dim=1)
        last = torch.arange(len(length)), length
        shown[last] = following[last[0], length - 1]
        present = torch.cat([torch.ones_like(inside[:, :1]), inside], dim=1) & (shown > 0)
        asked = torch.cat([torch.zeros_like(inside[:, :1]), following > 0], dim=1)[present]
        counts = present.sum(dim=1)
        tokens = self.answers.take(shown[present])
        labels = torch.where(asked.repeat_interleave(tokens.lengths), tokens.values, IGNORED)
        items = Ragged(tokens.at_ends(shown[present]), tokens.offsets).joined(counts)
        empty = {"history": rows[self.ITEM_SEQ], "length": torch.zeros_like(length)}
        head = self.writers["sequential"].write(template, self._rows(interaction) | empty)
        whole = head.followed_by(Prompts.of(tokens.joined(counts), items=items))
        labels = concatenated([head.tokens.filled(IGNORED), Ragged(labels, tokens.offsets).joined(counts)])
        return self._causal_loss(interaction, "sequential", whole, labels)

    def _causal_loss(self, interaction, task, prompt, labels, side="right"):
        """``labels``: what is to be written at the end of ``prompt``; padded on the left, no other position needs logits."""
        vectors, mask = self._vectors(interaction, task, prompt, side)
        labels, _ = labels.padded(side, fill=IGNORED)
        labels = labels[:, -(vectors.shape[1] - 1) :].to(vectors.device)  # nothing comes before the first token
        logits = self.backbone.logits(vectors, mask, last=labels.shape[1] + 1)[:, :-1]
        return token_loss(logits, labels)

    def check_training(self, loader):
        """Called before a run begins: UserError for batches of ``loader`` whose logits take too much memory."""
        for task, batches in zip(self.tasks, loader.tasks):
            positions, other = self.trie.longest, "use codes of fewer tokens (code_levels)"
            if TASKS[task].target == "text":
                positions, other = self.longest_answer, "longest_answer"
            elif task == "sequential" and self.every_prefix:
                positions, other = positions * (1 + int(batches.lengths.max())), "MAX_ITEM_LIST_LENGTH"
            positions += self.is_causal  # its last token has logits, too
            rows, tokens = min(batches.step, batches.sample_size), self.backbone.n_tokens + self.backbone.n_symbols
            check_logits(rows, positions, tokens, self.device, other)

    # From rows to vectors

    def _rows(self, interaction):
        """What templates name, on the CPU, where prompts are put together."""
        columns = {
            "user": self.USER_ID,
            "item": self.ITEM_ID,
            "history": self.ITEM_SEQ,
            "length": self.ITEM_SEQ_LEN,
            "candidates": CANDIDATES,
        }
        return {name: interaction[field].cpu() for name, field in columns.items() if field in interaction}

    def _prompt(self, interaction, task, template=-1):
        """Prompts of held-out rows are those of the last template."""
        if task not in self.writers:
            raise UserError(f"This {type(self).__name__} has learned {', '.join(self.tasks)}, and not {task} (tasks).")
        return self.writers[task].write(template, self._rows(interaction))

    def _answers(self, interaction, task):
        """Ragged (B) tokens that a row should be answered with."""
        if TASKS[task].target == "item":
            return self.answers.take(interaction[self.ITEM_ID].cpu())
        return self.sentences.take(interaction[self.text_field].cpu())

    def _vectors(self, interaction, task, prompt, side="right"):
        """What the backbone reads, [context; prompt]: vectors (B, P + L, d) and mask (B, P + L), padded on one side."""
        context = self.context(interaction, task)
        slots = torch.full((len(context) * context.shape[1],), self.backbone.pad)
        slots = Ragged(slots, torch.arange(len(context) + 1) * context.shape[1])
        ids, mask = concatenated([slots, prompt.tokens]).padded(side, self.backbone.pad)
        self._check_length(ids.shape[1])
        ids, mask = ids.to(context.device), mask.to(context.device)
        vectors = self.backbone.embed(ids)
        stored = vectors.dtype  # what is added to them may be more precise
        if self.word_embedding is not None and not (self.every_prefix and task == "sequential"):
            numbers, _ = concatenated([slots.filled(0), prompt.words]).padded(side)
            vectors = vectors + self.word_embedding(numbers.clamp(max=WORDS - 1).to(context.device))
        if self.item_embedding is not None:
            items, _ = concatenated([slots.filled(0), prompt.items]).padded(side)
            vectors = vectors + self.item_embedding(items.to(context.device))
        first = mask.long().argmax(dim=1, keepdim=True)  # (B, 1), where each row begins
        places = first + torch.arange(context.shape[1], device=context.device)  # (B, P)
        rows = torch.arange(len(context), device=context.device).unsqueeze(1)
        return vectors.index_put((rows, places), context.to(vectors.dtype)).to(stored), mask

    def _check_length(self, length):
        longest = self.backbone.longest
        if longest is not None and length > longest:
            raise UserError(
                f"A prompt takes {length} tokens with its context and answer, and the backbone reads {longest}; lower "
                "MAX_ITEM_LIST_LENGTH, n_candidates or longest_answer, or write shorter templates."
            )

    # Scores: log p(code of the item | context, prompt)

    def _inputs(self, interaction, task):
        """What decoding reads of held-out rows; a causal backbone's rows end where the answer begins."""
        prompt = self._prompt(interaction, task)
        side = "left" if self.is_causal else "right"
        vectors, mask = self._vectors(interaction, task, prompt, side)
        answer = self.trie.longest if TASKS[task].target == "item" else self.longest_answer
        self._check_length(mask.shape[1] + answer * self.is_causal)
        return {"inputs_embeds": vectors, "attention_mask": mask.long()}

    @torch.no_grad()
    def predict(self, interaction):
        """(B,) log-likelihoods of the rows' items."""
        items = interaction[self.ITEM_ID].unsqueeze(1)
        return self._in_parts(interaction, lambda rows, part: self._likelihoods(rows, items[part])).squeeze(1)

    @torch.no_grad()
    def score_candidates(self, interaction, items):
        """(B, C) log-likelihoods of candidates (B, C): named in the prompt of ``topn`` where the model has learned that, in
        the order of their ids."""
        task = "topn" if "topn" in self.tasks else "sequential"
        return self._in_parts(interaction, lambda rows, part: self._likelihoods(rows, items[part], task))

    @torch.no_grad()
    def full_sort_predict(self, interaction):
        """(B * I,) log-likelihoods of all items; with ``rank_by: beams`` of those that beam search finds, -inf for others."""
        return self._in_parts(interaction, self._scores if self.rank_by == "score" else self._found).view(-1)

    def _in_parts(self, interaction, score):
        """What ``score(rows, their numbers)`` gives for rows of about one length at a time: little of them is padding, and
        memory does not depend on ``eval_batch_size``."""
        order = interaction[self.ITEM_SEQ_LEN].argsort(stable=True)
        found = torch.cat([score(interaction[part], part) for part in order.split(AT_ONCE)])
        return torch.empty_like(found).index_copy_(0, order, found)

    def _likelihoods(self, rows, items, task="sequential"):
        rows.update(Interaction({CANDIDATES: items.sort(dim=1).values}))
        return score_items(self.backbone.bare, self.trie, items, **self._inputs(rows, task)).gather(1, items)

    def _scores(self, rows, _):
        return score_items(self.backbone.bare, self.trie, **self._inputs(rows, "sequential"))

    def _found(self, rows, _):
        candidates = self._unseen(rows[SEEN]) if SEEN in rows else None
        inputs = self._inputs(rows, "sequential")
        items, found = beam_search(self.backbone.bare, self.trie, self.n_beams, candidates, **inputs)
        return found.new_full((len(items), self.n_items), -torch.inf).scatter_(1, items, found)

    # Sentences

    def check_written(self, task):
        """UserError for a task that the model has not learned, or that is answered with an item."""
        if task not in self.tasks or TASKS[task].target != "text":
            raise UserError(f"This model was not trained on the task {task!r} (trained: {', '.join(self.tasks)}).")

    @torch.no_grad()
    def generate(self, interaction, task="explanation", *, beams=None, sampling=None) -> list[str]:
        """The sentence for each row, by beam search; it holds no symbol of an item's code.

        Args:
            beams: how many; ``text_beams`` when None.
            sampling: a :class:`recbole_persona.lm.sampling.NucleusSampling` of these rows, in place of beams.

        Raises:
            UserError: a task that the model has not learned, or that is answered with an item.
        """
        self.check_written(task)
        processors = [NoSymbols(self.backbone.n_tokens), *([sampling] if sampling else [])]
        with _quiet_about_masks():
            made = self.backbone.llm.generate(
                **self._inputs(interaction, task),
                max_new_tokens=self.longest_answer,
                num_beams=1 if sampling else beams or self.text_beams,
                do_sample=False,
                logits_processor=LogitsProcessorList(processors),
                pad_token_id=self.backbone.pad,
                eos_token_id=self.backbone.eos,
            )
        return [text.strip() for text in self.backbone.tokenizer.batch_decode(made, skip_special_tokens=True)]

    def _unseen(self, seen):
        allowed = torch.ones(len(seen), self.n_items, dtype=torch.bool, device=seen.device)
        return Candidates(self.trie, allowed.scatter_(1, seen, False))


def _check(config, tasks, n_items):
    """Raise UserError for settings that do not fit each other or the number of items."""
    for key, allowed in (("item_codes", CODES), ("rank_by", RANKINGS)):
        if config[key] not in allowed:
            raise UserError(f"{key} is one of {', '.join(allowed)}, not {config[key]!r}.")
    for metric in config["metrics"]:
        if metric.lower() in ("rmse", "mae", "logloss"):
            raise UserError(
                f"{metric} compares scores with ratings, and those of a language model are log-likelihoods."
            )
    lists = EvaluatorType.RANKING in {metric_types.get(metric.lower()) for metric in config["metrics"]}
    ranks_all = lists and "full" in config["eval_args"]["mode"].values()
    if lists and not {"sequential", *(() if ranks_all else ("topn",))} & set(tasks):
        raise UserError(
            f"metrics holds some that rank {'all items' if ranks_all else 'candidates'}, and tasks ({', '.join(tasks)}) has "
            "none that teaches it: add sequential, or append --metrics=\"['rouge-l']\" --valid_metric=rouge-l."
        )
    if ranks_all and config["rank_by"] == "beams" and config["n_beams"] > n_items:
        raise UserError(
            f"n_beams is {config['n_beams']}, and the data have {n_items} items: set n_beams to {n_items} at most."
        )
    if ranks_all and config["rank_by"] == "beams" and max(config["topk"]) > config["n_beams"]:
        logging.getLogger().warning(
            "topk holds %s, and %s beams find no more items than that; raise n_beams, or set rank_by: score.",
            max(config["topk"]),
            config["n_beams"],
        )
    for task in config["templates"] or {}:
        if task not in tasks:
            raise UserError(f"templates has some for {task!r}, which is none of the tasks.")


def _digest(codes):
    """(1,) int64, a hash of ragged codes."""
    content = b"".join(part.numpy().tobytes() for part in codes)
    return torch.tensor([int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)])


@contextmanager
def _quiet_about_masks():
    """Where no row is padded, transformers drops the mask that it is given, and then warns that there is none."""
    logger = logging.getLogger("transformers.modeling_utils")

    def other(record):
        return "attention_mask" not in str(record.msg)

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
