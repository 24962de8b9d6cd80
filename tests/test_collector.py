"""Our collector against RecBole's own, and what it gathers besides."""

import math

import numpy as np
import pytest
import torch
from evaluate_data import Personas, SequentialPersonas, prepared
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_persona.evaluate.collector import Collector as OurCollector
from recbole_persona.evaluate.collector import RecboleCollector, _hits

pytestmark = pytest.mark.usefixtures("elsewhere")


ALL_LISTS = ["NDCG", "GAUC", "ItemCoverage", "AveragePopularity", "Recall"]


def random_batches(test, n_items, lists):
    """The loader's batches with random scores that have ties: lists over all items or the candidates, or row by row."""
    generator = torch.Generator().manual_seed(0)
    for interaction, rows, positive_u, positive_i in test:
        scores = torch.randint(0, 30, (len(interaction), n_items), generator=generator).float()
        scores[:, 0] = -torch.inf
        if not lists:
            scores = scores[:, 1]
        elif isinstance(rows, torch.Tensor):  # sampled candidates
            of_candidates = torch.full((int(positive_u[-1]) + 1, n_items), -torch.inf)
            of_candidates[rows, interaction["item_id"]] = scores[:, 1]
            scores = of_candidates
        yield scores, interaction, positive_u, positive_i


@pytest.mark.parametrize(
    ("mode", "names"),
    [("full", ALL_LISTS), ("full", ["Recall"]), ("uni9", ALL_LISTS), ("uni9", ["ItemCoverage"]), ("labeled", ["AUC"])],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} metrics",
)
def test_collector_gathers_what_recboles_gathers(folder, mode, names):
    """The same names, values and types, and nothing left over for the next evaluation."""
    lists = mode != "labeled"
    config, train, _, test, *_ = prepared(
        Personas, folder, metrics=names, valid_metric=f"{names[-1]}@3" if lists else "AUC", eval_args={"mode": mode},
        threshold={"rating": 3}, eval_batch_size=300 if lists else 20,
    )  # fmt: skip
    upstream, ours = RecboleCollector(config), Collector(config)
    assert isinstance(ours, OurCollector) and not isinstance(upstream, OurCollector)
    ours.data_collect(train)
    for rounds in range(2):
        batches = list(random_batches(test, train._dataset.item_num, lists))
        assert len(batches) > 1
        upstream.data_struct = DataStruct()
        for scores, *rest in batches:
            upstream.eval_batch_collect(scores.clone(), *rest)
            ours.eval_batch_collect(scores.clone(), *rest)
        struct = ours.get_data_struct()
        for name, value in upstream.data_struct._data_dict.items():
            assert struct[name].dtype == value.dtype and torch.equal(struct[name], value), (name, rounds)
        result = Evaluator(config).evaluate(struct)
        assert {key.partition("@")[0] for key in result} == {name.lower() for name in names}


@pytest.mark.parametrize("pairs", [[], [(0, 1)], [(0, 2), (2, 5), (0, 2), (2, 1), (0, 4)]], ids=len)
def test_hits_and_distinct_positives(pairs):
    """As in a matrix of all cases and items; a case may have no positive, a pair may repeat."""
    positive_u, positive_i = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    items = torch.tensor([[1, 2, 3], [4, 2, 1], [5, 0, 1]])
    relevant = torch.zeros(3, 6, dtype=torch.bool)
    relevant[positive_u, positive_i] = True
    hits, counts = _hits(items, positive_u, positive_i, 6)
    assert torch.equal(hits, relevant.gather(1, items)) and torch.equal(counts, relevant.sum(1))


def test_users_and_lists_of_sampled_cases(folder):
    """With sampled candidates, a case is a block of rows: its user is found, and no item that was no candidate."""
    *_, test, model, trainer = prepared(
        Personas, folder, metrics=["PersonaUsage"], valid_metric="PersonaUsage@3", eval_args={"mode": "uni4"}
    )
    np.random.seed(0)
    batches = list(test)
    np.random.seed(0)
    trainer.evaluate(test, load_best_model=False)
    struct = trainer.eval_collector.last
    assert struct["rec.users"].tolist() == test.uid_list.tolist()
    case = 0
    for interaction, rows, *_ in batches:
        for block in range(int(rows[-1]) + 1):
            candidates = set(interaction["item_id"][rows == block].tolist())
            items = struct["rec.list"][case].tolist()
            assert set(items) - {0} <= candidates and sum(item > 0 for item in items) == min(7, len(candidates))
            weights = model.explain(
                {"user_id": struct["rec.users"][case].repeat(7), "item_id": struct["rec.list"][case]}
            ).weights
            assert weights.argmax(1).tolist() == struct["rec.personas"].dominant[case].tolist()
            case += 1


@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
def test_persona_metrics_of_a_model(folder, model):
    """In the whole evaluation, against one call of explain per recommendation."""
    names = ["PersonaEntropy", "PersonaUsage"]
    *_, test, model, trainer = prepared(model, folder, metrics=names, valid_metric="PersonaUsage@3", eval_batch_size=50)
    result = trainer.evaluate(test, load_best_model=False)
    rows = test._dataset[slice(None)] if test.is_sequential else test.user_df
    entropies, used = [], []
    for case, items in enumerate(trainer.eval_collector.last["rec.list"].tolist()):
        row = {name: value[case : case + 1] for name, value in rows.interaction.items()}
        weights = [model.explain({**row, "item_id": torch.tensor([i])}).weights[0].tolist() for i in items[:3]]
        size = len(weights[0])
        entropies.append(np.mean([sum(-w * math.log(w) for w in each) / math.log(size) for each in weights]))
        used.append(len({max(range(size), key=each.__getitem__) for each in weights}) / size)
    assert result["personaentropy@3"] == pytest.approx(np.mean(entropies), abs=0.51e-4)
    assert result["personausage@3"] == pytest.approx(np.mean(used), abs=0.51e-4)
