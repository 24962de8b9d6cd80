"""Training batches for a model that learns several tasks: every batch is of one task."""

import torch
from recbole.data.interaction import Interaction

from recbole_persona.data.sampling import NegativeSampler, OrderedTrainLoader, negative_weights
from recbole_persona.data.texts import text_store
from recbole_persona.data.windows import WindowTrainLoader
from recbole_persona.errors import UserError
from recbole_persona.lm.backbone import reads_then_writes
from recbole_persona.lm.item_codes import FIXED_LENGTH

TASK = "task"  # column: number of the batch's task in the key tasks, the same in every row
CANDIDATES = "candidates"  # column (B, C): items of which one is the target
SCHEDULES = ("mixed", "round_robin")


def takes_every_prefix(config) -> bool:
    """Whether every item of a window is a target of one pass (key ``every_prefix``; where it is None, wherever it can be).

    Raises:
        UserError: it is asked for, and the backbone is not causal or a code's end is a token of its own.
    """
    able = config["item_codes"] in FIXED_LENGTH and not reads_then_writes(config)
    if config["every_prefix"] and not able:
        raise UserError(
            "every_prefix needs a causal backbone, such as scratch:small, and codes of one length "
            f"(item_codes: {', '.join(FIXED_LENGTH)})."
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
        kinds = {"sequential": self._sequential, "topn": _CandidateLoader, "explanation": _TextLoader}
        if not tasks or not set(tasks) <= set(kinds) or len(set(tasks)) < len(tasks):
            raise UserError(f"tasks is a list of some of {', '.join(kinds)}, not {tasks!r}.")
        self.tasks = [kinds[task](config, dataset, sampler, shuffle=shuffle) for task in tasks]
        for loader in self.tasks:
            loader.generator = self.generator  # one stream of random numbers, one to keep in a state
        self.schedule = config["task_schedule"]

    @staticmethod
    def _sequential(config, *arguments, **options):
        return (_EvenWindows if takes_every_prefix(config) else OrderedTrainLoader)(config, *arguments, **options)

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


class _CandidateLoader(OrderedTrainLoader):
    """Rows with candidates, one of which is the target."""

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self.user_field, self.item_field = dataset.uid_field, dataset.iid_field
        users, items = (dataset.inter_feat[name] for name in (self.user_field, self.item_field))
        weights = negative_weights(items, dataset.item_num, "uniform", 1.0)
        self.negatives = NegativeSampler(users, items, dataset.user_num, dataset.item_num, weights)
        self.n_negatives = config["n_candidates"] - 1
        if not 1 <= self.n_negatives < dataset.item_num - 1:
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


class _TextLoader(OrderedTrainLoader):
    """The rows that have a text to be written."""

    def __init__(self, config, dataset, sampler, shuffle=False):
        field = config["explanation_field"]
        text_store(dataset, field, "The task explanation")
        self.rows = (dataset.inter_feat[field] > 0).nonzero().squeeze(1)
        super().__init__(config, dataset, sampler, shuffle=shuffle)

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.sample_size = len(self.rows)

    def collate_fn(self, index):
        return super().collate_fn(self.rows[index])
