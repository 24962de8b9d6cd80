"""Sentences that a run writes: for users and items, or for its held-out rows; also into a file that can be continued."""

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from recbole_persona.errors import Busy, UserError
from recbole_persona.evaluate.protocols import config_with
from recbole_persona.evaluate.text_pass import HeldOutTexts
from recbole_persona.lm.sampling import NucleusSampling, row_numbers
from recbole_persona.lm.tasks import TASKS
from recbole_persona.models.language import LanguageRecommender
from recbole_persona.progress import progress
from recbole_persona.runner.pairs import read_pairs
from recbole_persona.runner.people import KnownUsers, internal_ids
from recbole_persona.runner.training import load
from recbole_persona.runs import RunFolder, config_hash
from recbole_persona.upstream.files import check_regular

PARTS = ("valid", "test")


def generate(run_dir, users=None, items=None, task="explanation", **options) -> pd.DataFrame:
    """What a finished run writes for users and items, or for rows that were held out.

    Args:
        run_dir: folder of the run, of any model that writes; of an interrupted run, its best weights so far write.
        users, items: external ids (str or int), side by side; one user goes with all the items, one item with all the users.
        task: that the model has learned, and that is answered with a text.
        options: as for :class:`Generation`.

    Returns:
        Columns ``user, item, task, text``, a row for each that is asked for, in their order; of held-out rows also
        ``reference``, and ``feature`` and ``rating`` where the run loads them.

    Raises:
        UserError: an unknown user or item, a model that cannot do it, settings that mean nothing.
    """
    generation = Generation(run_dir, users, items, task, **options)
    return pd.DataFrame([row for rows in generation.batches() for row in rows])


def generate_file(out, run_dir, users=None, items=None, task="explanation", *, resume=False, **options) -> int:
    """:func:`generate` into a file of JSON lines, batch by batch: memory does not grow with their number.

    A line holds what a row of :func:`generate` holds, and under ``settings`` what the text depends on.

    Args:
        out: the file.
        resume: go on behind the last whole line of a file that was begun with the same rows and settings.

    Returns:
        How many rows were written now.

    Raises:
        UserError: as :func:`generate`; a file that is there already, or that was begun with something else.
    """
    out = Path(out)
    _check_free(out, resume)
    generation = Generation(run_dir, users, items, task, **options)
    settings = generation.settings()
    with _only_writer(out):
        _check_free(out, resume)  # another process may have written it while the run was read
        done = _whole_lines(out, generation, settings) if out.exists() else 0
        with open(out, "ab") as file:
            for rows in generation.batches(done):
                lines = (json.dumps(row | {"settings": settings}, ensure_ascii=False) + "\n" for row in rows)
                file.write("".join(lines).encode("utf-8", "surrogatepass"))
                file.flush()
    return len(generation) - done


def _check_free(out, resume):
    check_regular(out)
    if out.exists() and not resume:
        raise UserError(f"{out} is there already; go on with it by --resume, or name another file.")


@contextmanager
def _only_writer(out):
    """Hold the file while it is written; Busy when another process does. The lock file is removed at the end."""
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Busy(f"Another process writes {out}; wait for it, or name another file.") from None
    except OSError as error:
        raise UserError(f"{out} could not be written ({error.strerror}); name another folder.") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class Generation:
    """Rows that a run is asked to write for.

    Args:
        run_dir, users, items, task: as for :func:`generate`.
        pairs: file of users and items, as :func:`recbole_persona.runner.pairs.read_pairs` takes it.
        split: ``valid`` or ``test``: the rows of that part with a text.
        beams: of a sentence; the run's ``text_beams`` when None.
        sample: draw the sentences by chance.
        temperature: of the drawing, above 0; 1 when None.
        top_p: draw among the likeliest tokens that hold this share of the probability; 1 when None.
        seed: of the drawing; the run's own when None.
        config_dict: settings to change, such as ``gpu_id`` or ``text_batch_size``.
        trust: run the code that only the run's ``config.yaml`` names.

    Raises:
        UserError: as :func:`generate`.
    """

    def __init__(
        self,
        run_dir,
        users=None,
        items=None,
        task="explanation",
        *,
        pairs=None,
        split=None,
        beams=None,
        sample=False,
        temperature=None,
        top_p=None,
        seed=None,
        config_dict=None,
        trust=False,
    ):
        if (users is not None or items is not None) + (pairs is not None) + (split is not None) != 1:
            raise UserError("Name users and items, or a file of pairs, or a part of the split: one of the three.")
        if (users is None) != (items is None):
            raise UserError("A sentence is written for a user and an item; name both.")
        _check_sampling(sample, beams, temperature, top_p, seed)
        self.loaded = load(run_dir, config_dict, trust, "generate", unfinished=True)
        self.task = task
        _check_writes(self.loaded, run_dir, task, sample or beams is not None)
        self.asked = HeldOut(self.loaded, split) if split else _pairs(self.loaded, users, items, pairs)
        self.sampling = {"temperature": temperature or 1.0, "top_p": top_p or 1.0} if sample else None
        self.seed = self.loaded.config["seed"] if seed is None else seed
        self.beams = beams
        self.rows = split or "pairs"  # the same pair is read with another history
        self.folder = RunFolder(run_dir)

    def __len__(self):
        return len(self.asked)

    def settings(self) -> dict:
        """What the texts depend on, besides their rows."""
        # How many rows are written at a time is no part of it: a smaller number must be able to go on.
        digest = hashlib.sha256(config_hash(config_with(self.loaded.config, text_batch_size=None)).encode())
        with open(self.folder.model_file, "rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        made = {"run": digest.hexdigest()[:16], "rows": self.rows}
        if self.sampling:
            return made | self.sampling | {"seed": self.seed}
        if isinstance(self.loaded.model, LanguageRecommender):
            made["beams"] = self.beams or self.loaded.model.text_beams
        return made

    def names(self, numbers) -> list[dict]:
        """What is known of rows before anything is written."""
        dataset = self.loaded.dataset
        users = dataset.id2token(dataset.uid_field, self.asked.users[numbers])
        items = dataset.id2token(dataset.iid_field, self.asked.items[numbers])
        return [{"user": str(u), "item": str(i), "task": self.task} for u, i in zip(users, items)]

    def batches(self, first=0):
        """Lists of dicts, one a row, from row ``first`` on.

        A batch begins at a multiple of ``text_batch_size`` wherever one goes on, so that its rows meet as they did: sums are
        rounded differently in batches of another make.
        """
        size = self.loaded.config["text_batch_size"]
        starts = range(first // size * size, len(self), size) if first < len(self) else ()
        for start in progress(starts, desc="rows", unit="batch", disable=len(starts) < 2):
            numbers = np.arange(start, min(start + size, len(self)))
            rows = self.names(numbers)
            columns = {"text": self._written(numbers), **self.asked.known(numbers)}
            for name, values in columns.items():
                for row, value in zip(rows, values, strict=True):
                    row[name] = value
            yield rows[max(first - start, 0) :]

    def _written(self, numbers):
        model, options = self.loaded.model, {}
        if self.sampling:
            drawn = row_numbers(self.seed, numbers, model.longest_answer)
            options["sampling"] = NucleusSampling(drawn, **self.sampling)
        elif self.beams:
            options["beams"] = self.beams
        with torch.no_grad():
            return model.generate(self.asked.rows(numbers), task=self.task, **options)


class Pairs:
    """Users and items side by side, by internal ids (n,); a model reads the whole history of the user."""

    def __init__(self, loaded, users, items):
        self.users, self.items = users, items
        self.people = KnownUsers(loaded, users)

    def __len__(self):
        return len(self.users)

    def rows(self, numbers):
        return self.people.pairs(numbers, self.items[numbers])

    def known(self, numbers) -> dict:
        return {}


class HeldOut(HeldOutTexts):
    """The rows of the validation or test part that have a text; a model reads the history before each."""

    def __init__(self, loaded, split):
        if split not in PARTS:
            raise UserError(f"split is one of {', '.join(PARTS)}, not {split!r}.")
        super().__init__(loaded.config, loaded.test_data if split == "test" else loaded.valid_data, "--split")

    def known(self, numbers) -> dict:
        """The reference, and what the run loads besides, by name, a list each."""
        found, feature = {"reference": self.references(numbers)}, self.config["feature_field"]
        if feature in self.feat and feature in self.dataset.field2id_token:
            found["feature"] = self.features(numbers)
        if self.config["RATING_FIELD"] in self.feat:
            found["rating"] = self.ratings(numbers).tolist()
        return found


def _pairs(loaded, users, items, pairs):
    """:class:`Pairs` of external ids."""
    dataset = loaded.dataset
    if pairs is not None:
        users, items = read_pairs(pairs, dataset.uid_field, dataset.iid_field)
    users, items = ([one] if np.isscalar(one) else list(one) for one in (users, items))
    if len(users) != len(items) and 1 not in (len(users), len(items)):
        raise UserError(
            f"{len(users)} users and {len(items)} items are named: as many of both go side by side, and one goes with all."
        )
    users = internal_ids(dataset, dataset.uid_field, users, "user")
    items = internal_ids(dataset, dataset.iid_field, items, "item")
    return Pairs(loaded, *np.broadcast_arrays(users, items))


def _check_sampling(sample, beams, temperature, top_p, seed):
    """UserError for settings that mean nothing."""
    if beams is not None and (sample or beams < 1):
        raise UserError(
            "--sample draws one sentence and knows no beams." if sample else f"beams is 1 or more, not {beams}."
        )
    if not sample and not temperature is top_p is seed is None:
        raise UserError("temperature, top_p and seed are those of --sample; without it nothing is drawn.")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UserError(f"temperature is a number above 0, not {temperature}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p is a share above 0, up to 1, not {top_p}.")
    if seed is not None and seed < 0:
        raise UserError(f"seed is a whole number from 0, not {seed}.")


def _check_writes(loaded, run_dir, task, decodes):
    """UserError for a run that cannot write for a task."""
    model, name = loaded.model, loaded.config["model"]
    if not hasattr(model, "generate"):
        raise UserError(f"{name} writes no texts; a run of POD or PeaPOD with tasks: [explanation] does.")
    if task in TASKS and TASKS[task].target == "item":
        raise UserError(
            f"The task {task} is answered with items: `recbole-persona recommend --run={run_dir} --user=…` lists them."
        )
    if isinstance(model, LanguageRecommender):
        model.check_written(task)
    elif task != "explanation" or decodes:
        raise UserError(
            f"{name} writes one sentence for the task explanation; it knows no other task, beams or sampling."
        )


def _whole_lines(out, generation, settings) -> int:
    """How many rows a file holds; a last line that is torn is cut off.

    Raises:
        UserError: the file was begun with other rows or settings.
    """
    number, size, step = 0, 0, 1024
    with open(out, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            if number == len(generation):
                raise UserError(f"{out} has more than the {number} rows that are asked for; name another file.")
            if number % step == 0:
                names = generation.names(np.arange(number, min(number + step, len(generation))))
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            found = row if isinstance(row, dict) else {}
            for name, value in (names[number % step] | {"settings": settings}).items():
                if found.get(name) != value:
                    raise UserError(
                        f"{out}, line {number + 1}, has {name} {found.get(name)}, and {value} is asked for; go on with what it "
                        "was begun with, or name another file."
                    )
            number, size = number + 1, size + len(line)
        file.truncate(size)
    return number
