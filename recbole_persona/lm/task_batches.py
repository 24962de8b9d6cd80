"""Training batches for a model that learns several tasks: every batch is of one task."""

import torch
from recbole.data.interaction import Interaction

from recbole_persona.data.sampling import OrderedTrainLoader, checked_sampler, negative_weights
from recbole_persona.data.texts import text_store
from recbole_persona.data.training_part import training_interactions
from recbole_persona.data.windows import WindowTrainLoader
from recbole_persona.errors import UserError
from recbole_persona.lm.backbone import reads_then_writes
from recbole_persona.lm.item_codes import FIXED_LENGTH
from recbole_persona.lm.tasks import TASKS, parse, templates_of

TASK = "task"  # column: number of the batch's task in the key tasks, the same in every row
CANDIDATES = "candidates"  # column (B, C): items of which one is the target
SCHEDULES = ("mixed", "round_robin")


def takes_every_prefix(config) -> bool:
    """Whether every item of a window is a target of one pass (key ``every_prefix``; where it is None, wherever it can be).

    Raises:
        UserError: it is asked for, and the backbone is not causal, a code's end is a token of its own, or a template says
            more of the history than its codes, or anything behind them, so that a window is no prompt that goes on.
    """
    kinds = [[kind for kind, _ in parse(template)] for template in templates_of(config, "sequential")]
    goes_on = all(of[-1] == "history" and sum(kind.startswith("history") for kind in of) == 1 for of in kinds)
    able = config["item_codes"] in FIXED_LENGTH and not reads_then_writes(config) and goes_on
    if config["every_prefix"] and not able:
        raise UserError(
            "every_prefix needs a causal backbone, such as scratch:small, codes of one length "
            f"(item_codes: {', '.join(FIXED_LENGTH)}), and templates of sequential that end with the codes of {{history}}."
        )
    return able if config["every_prefix"] is None else config["every_prefix"]


class TaskTrainLoader(OrderedTrainLoader):
    """RecBole's training loader for the tasks of a language model (key ``tasks``), all of them from one training part.

    A batch is a batch of its task with the column ``task``:

    - ``sequential``: windows whose every position has a target (:func:`takes_every_prefix`, :class:`WindowTrainLoader`), in
      batches of about one length, so that little of them is padding; or rows (history, target), as RecBole's.
    - ``topn``: such rows with ``candidates``, the target and ``n_candidates - 1`` items that the user has not chosen in the
      training part, newly drawn for each batch, in a random order.
    - ``explanation``: the rows with a text.

    ``rows_of_a_user`` says of which tasks an epoch has so many rows of each user, drawn anew, and not all (but for
    ``sequential`` with ``every_prefix``, whose rows share a pass).

    ``task_schedule`` ``mixed``: every row of every task once in an epoch, the batches of all tasks in a random order.
    ``round_robin``, POD's: the tasks in turn, as many batches as there would be in ``mixed``; a short one begins again, and a
    long one is not finished.

    Raises:
        UserError: settings that mean nothing, a task without its column.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        if config["task_schedule"] not in SCHEDULES:
            raise UserError(f"task_schedule is one of {', '.join(SCHEDULES)}, not {config['task_schedule']!r}.")
        tasks = config["tasks"]
        sequential = _EvenWindows if takes_every_prefix(config) else _SequentialRows
        kinds = {"sequential": sequential, "topn": _CandidateRows, "explanation": _TextRows}
        if config["train_neg_sample_args"]["distribution"] != "none":
            raise UserError(
                "A language model learns what was chosen and takes no negatives beside it; leave train_neg_sample_args: ~."
            )
        if not tasks or not set(tasks) <= set(kinds) or len(set(tasks)) < len(tasks):
            raise UserError(f"tasks is a list of some of {', '.join(kinds)}, not {tasks!r}.")
        _check_numbers(config["rows_of_a_user"] or {})
        self.tasks = [kinds[task](config, dataset, sampler, shuffle=shuffle) for task in tasks]
        for loader in self.tasks:
            loader.generator = self.generator  # one stream of random numbers, one to keep in a state
        self.schedule = config["task_schedule"]

    def __len__(self):
        return sum(map(len, self.tasks))

    def __iter__(self):
        counts = torch.tensor([len(loader) for loader in self.tasks])
        if self.schedule == "mixed":
            order = torch.arange(len(self.tasks)).repeat_interleave(counts)
            order = order[torch.randperm(len(order), generator=self.generator)]
        else:
            order = torch.arange(int(counts.sum())) % len(self.tasks)
        running = [iter(loader) for loader in self.tasks]
        for task in order.tolist():
            batch = next(running[task], None)
            if batch is None:
                running[task] = iter(self.tasks[task])
                batch = next(running[task])
            batch.update(Interaction({TASK: torch.full((len(batch),), task)}))
            yield batch


class _EvenWindows(WindowTrainLoader):
    """Windows in batches of about one length; which windows meet, and in which order the batches come, is random."""

    MET = 16  # batches that are sorted together

    def __iter__(self):
        order = torch.randperm(self.sample_size, generator=self.generator)
        batches = []
        for some in order.split(self.step * self.MET):
            batches += some[self.lengths[some].argsort(stable=True)].split(self.step)
        for number in torch.randperm(len(batches), generator=self.generator).tolist():
            yield self.collate_fn(batches[number])


class _TaskRows(OrderedTrainLoader):
    """The rows of a task, or with ``rows_of_a_user`` so many of each user's, drawn for every epoch."""

    task: str

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.rows = self._rows(config, dataset)
        self.of_a_user = (config["rows_of_a_user"] or {}).get(self.task, len(self.rows))
        self.user_field, self.item_field = dataset.uid_field, dataset.iid_field
        self.users = dataset.inter_feat[dataset.uid_field][self.rows]
        super().__init__(config, dataset, sampler, shuffle=shuffle)

    def _rows(self, config, dataset):
        return torch.arange(len(dataset.inter_feat))

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.sample_size = int(self.users.bincount().clamp(max=self.of_a_user).sum())

    def __iter__(self):
        order = torch.randperm(len(self.rows), generator=self.generator)
        order = order[self.users[order].argsort(stable=True)]
        counts = self.users.bincount()
        place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[self.users[order]]  # among the user's
        self.drawn = self.rows[order[place < self.of_a_user]]
        return super().__iter__()

    def collate_fn(self, index):
        return super().collate_fn(self.drawn[index])


class _SequentialRows(_TaskRows):
    task = "sequential"


class _CandidateRows(_TaskRows):
    """Rows with candidates, one of which is the target."""

    task = "topn"

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        chosen = training_interactions(
            dataset, self.user_field, self.item_field
        )  # first items too, which are no targets
        users, items = map(torch.from_numpy, chosen)
        self.negatives = checked_sampler(
            dataset, users, items, negative_weights(items, dataset.item_num, "uniform", 1.0)
        )
        self.n_negatives = config["n_candidates"] - 1
        if self.n_negatives >= dataset.item_num - 1:
            raise UserError(
                f"n_candidates is 2 to the number of items ({dataset.item_num - 1}), not {config['n_candidates']}."
            )

    def collate_fn(self, index):
        batch = super().collate_fn(index)
        numbers = torch.rand(len(batch), self.n_negatives, dtype=torch.float64, generator=self.generator)
        drawn = self.negatives.draw(batch[self.user_field], numbers)
        items = torch.cat([batch[self.item_field].unsqueeze(1), drawn], dim=1)  # (B, C)
        mixed = torch.rand(items.shape, generator=self.generator).argsort(dim=1)
        batch.update(Interaction({CANDIDATES: items.gather(1, mixed)}))
        return batch


class _TextRows(_TaskRows):
    """The rows that have a text to be written."""

    task = "explanation"

    def _rows(self, config, dataset):
        field = config["explanation_field"]
        store = text_store(dataset, field, "The task explanation")
        rows = torch.from_numpy(store.filled(dataset.inter_feat[field]))
        if not len(rows):
            raise UserError(
                f"No row of the training part of {dataset.dataset_name!r} has a text {field!r} to learn from."
            )
        return rows


def _check_numbers(rows_of_a_user):
    if not isinstance(rows_of_a_user, dict):
        raise UserError(f"rows_of_a_user gives tasks a number, such as {{topn: 1}}, not {rows_of_a_user!r}.")
    for task, number in rows_of_a_user.items():
        if task not in TASKS or not isinstance(number, int) or number < 1:
            raise UserError(
                f"rows_of_a_user gives tasks a whole number from 1, such as {{topn: 1}}, not {{{task}: {number!r}}}."
            )
