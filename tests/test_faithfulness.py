"""Removing parts of an explanation, against slow loops and known answers."""

import math

import pytest
import torch
from evaluate_data import Personas, SequentialPersonas, prepared
from recbole.data.interaction import Interaction

from recbole_persona.errors import UserError
from recbole_persona.evaluate.faithfulness import REMOVED, faithfulness, recommended_pairs
from recbole_persona.layers.explanation import Explanation


class Planted(torch.nn.Module):
    """Weights and parts as given, row by row; the score is ``score(pooled . direction)``."""

    def __init__(self, weights, parts, score=torch.tanh):
        super().__init__()
        self.weights, self.parts = torch.nn.Parameter(weights), torch.nn.Parameter(parts)
        self.direction, self.score = torch.ones(parts.shape[-1]).double(), score

    def explain(self, interaction):
        return Explanation(
            "history", self.weights[interaction["row"]], self.parts[interaction["row"]], normalised=False
        )

    def score_pooled(self, interaction, pooled):
        return self.score(pooled @ self.direction)


def planted(rows=20, parts=5, padded=True, score=torch.tanh):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(rows, parts, generator=generator).double()
    if padded:  # histories of 1 to n items
        weights[torch.arange(parts) >= torch.randint(1, parts + 1, (rows, 1), generator=generator)] = 0
    return Planted(weights, torch.rand(rows, parts, 4, generator=generator).double() / 3, score)


def rows_of(model):
    return Interaction({"row": torch.arange(len(model.weights))})


def slow_drops(model, row, order):
    """Drop of the score after the first, the first two, … of ``order`` are left out, in python's numbers."""
    weights, parts = model.weights[row].tolist(), model.parts[row].tolist()

    def score(left_out):
        kept = [part for part in range(len(weights)) if part not in left_out]
        return math.tanh(sum(weights[part] * sum(parts[part]) for part in kept))

    return [score([]) - score(order[:step]) for step in range(1, len(order) + 1)]


def test_parts_are_removed_by_weight():
    model, top = planted(), 3
    found = faithfulness(model, rows_of(model), top=top, draws=1).set_index("removed")
    first, area = [], []
    for row, weights in enumerate(model.weights.tolist()):
        order = sorted(range(len(weights)), key=lambda part: -weights[part])[:top]
        drops = slow_drops(model, row, [part for part in order if weights[part] > 0])
        drops += drops[-1:] * (top - len(drops))  # with all parts gone, nothing more is lost
        first.append(drops[0])
        area.append(sum(drops) / top)
    for column, values in (("drop", first), ("aopc", area)):
        mean = sum(values) / len(values)
        sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        assert found.loc["top parts", column] == pytest.approx(mean)
        assert found.loc["top parts", f"{column}_sd"] == pytest.approx(sd)


def test_another_part_is_never_the_heaviest_nor_padding():
    """With two or three real parts, the mean over many draws is the mean over the others."""
    model = planted(rows=200, parts=3)
    found = faithfulness(model, rows_of(model), top=2, draws=300).set_index("removed")
    first, area = [], []
    for row, weights in enumerate(model.weights.tolist()):
        real = sorted((part for part in range(3) if weights[part] > 0), key=lambda part: -weights[part])
        if len(real) > 1:
            one, *rest = [slow_drops(model, row, order) for order in (real[1:], real[1:][::-1])]
            both = [drops + drops[-1:] * (2 - len(drops)) for drops in (one, *rest)]
            first.append(sum(drops[0] for drops in both) / 2)
            area.append(sum(sum(drops) for drops in both) / 4)
    assert found.loc["other parts", "pairs"] == len(first) < 200
    assert found.loc["other parts", "drop"] == pytest.approx(sum(first) / len(first), abs=0.01)
    assert found.loc["other parts", "aopc"] == pytest.approx(sum(area) / len(area), abs=0.01)


def test_random_vectors_are_as_long_as_what_is_removed():
    """With a linear score, the drop of a random vector is |v| |q| cos: mean 0, and second moment |v|^2 |q|^2 / d."""
    model = planted(rows=1, parts=3, padded=False, score=lambda x: x)
    rows = Interaction({"row": torch.zeros(4000, dtype=torch.long)})
    found = faithfulness(model, rows, top=1, draws=1).set_index("removed")
    heaviest = (model.weights[0].unsqueeze(1) * model.parts[0])[model.weights[0].argmax()]
    expected = heaviest.norm().item() * model.direction.norm().item() / 2  # d = 4
    assert abs(found.loc["random vectors", "drop"]) < 4 * expected / math.sqrt(4000)
    assert found.loc["random vectors", "drop_sd"] == pytest.approx(expected, rel=0.05)


def test_a_true_explanation_beats_chance_and_a_false_one_does_not():
    generator = torch.Generator().manual_seed(1)
    parts = torch.rand(300, 4, 6, generator=generator).double()  # all point the way of the score
    weights = torch.softmax(3 * torch.randn(300, 4, generator=generator), 1).double()
    true = faithfulness(Planted(weights, parts), Interaction({"row": torch.arange(300)})).set_index("removed")
    assert (true.loc[["random vectors", "other parts"], "below_top"] > 0.9).all()
    assert true.loc["top parts", "drop"] > 3 * true.loc["other parts", "drop"] > 0
    orthogonal = torch.tensor([1.0, -1, 1, -1, 1, -1]).double().expand(300, 4, 6)  # makes no difference to the score
    false = faithfulness(Planted(weights, orthogonal.clone()), Interaction({"row": torch.arange(300)})).set_index(
        "removed"
    )
    assert abs(false.loc["top parts", "drop"]) < 1e-9


def test_batches_make_no_difference_to_what_is_certain():
    model = planted()
    whole, parts = (faithfulness(model, rows_of(model), batch_size=size).set_index("removed") for size in (100, 7))
    assert whole.loc["top parts", "drop"] == pytest.approx(parts.loc["top parts", "drop"])
    assert list(whole.index) == list(REMOVED)
    again = faithfulness(model, rows_of(model)).set_index("removed")
    assert again.equals(whole)  # seeded


@pytest.mark.parametrize("model", [Personas, SequentialPersonas])
def test_recommended_pairs_are_the_best_of_the_evaluation(folder, model, elsewhere):
    *_, test, model, trainer = prepared(model, folder, metrics=["ItemCoverage"], valid_metric="ItemCoverage@3")
    trainer.evaluate(test, load_best_model=False)
    struct = trainer.eval_collector.last
    lists = dict(zip(struct["rec.users"].tolist(), struct["rec.items"].tolist()))
    pairs = recommended_pairs(trainer, test, users=9, topk=4)
    assert len(pairs) == 36 and len(set(pairs["user_id"].tolist())) == 9
    for user, items in zip(pairs["user_id"].reshape(9, 4)[:, 0].tolist(), pairs["item_id"].reshape(9, 4).tolist()):
        assert items == lists[user][:4]
    torch.testing.assert_close(pairs["place"], test._dataset.item_feat["place"][pairs["item_id"]])
    torch.testing.assert_close(model.score_pooled(pairs, model.explain(pairs).pooled), model.predict(pairs))
    table = faithfulness(model, pairs, top=2)
    assert (table["pairs"] == 36).all() and table.notna().all(axis=None)


def test_what_cannot_be_tested_is_refused(folder, elsewhere):
    *_, test, _, trainer = prepared(Personas, folder, eval_args={"mode": "uni5"})
    with pytest.raises(UserError, match="full"):
        recommended_pairs(trainer, test)
    with pytest.raises(UserError, match="does not explain"):
        faithfulness(torch.nn.Linear(1, 1), Interaction({"row": torch.arange(2)}))


def test_explanation_checks_itself():
    weights, parts = torch.rand(3, 4), torch.rand(3, 4, 5)
    pooled = Explanation("persona", weights, parts).pooled
    slow = [[sum(weights[b, n] * parts[b, n, d] for n in range(4)) for d in range(5)] for b in range(3)]
    torch.testing.assert_close(pooled, torch.tensor(slow))
    with pytest.raises(ValueError, match="kind"):
        Explanation("mood", weights, parts)
    with pytest.raises(ValueError, match="fit"):
        Explanation("persona", weights[:2], parts)
