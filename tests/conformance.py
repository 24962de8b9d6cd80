"""What every model must keep, written once. A model's test file holds a subclass:

    class TestMyModel(Conformance):
        model = "MyModel"                      # or package.module:Class
        settings = {"embedding_size": 8}

The model is trained for a few epochs on a small data set with two kinds of users, 40 of them and one more without any
interaction; one test, marked slow, trains on planted-personas.
"""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model

from recbole_persona import run
from recbole_persona.layers.explanation import Explanation
from recbole_persona.runner.training import evaluate_run, load
from recbole_persona.upstream.files import load_tree

N_USERS, N_ITEMS = 40, 60
AUTOCAST_ERROR, AUTOCAST_OVERLAP, TOP = 2e-2, 0.9, 10


def write_data(folder):
    """``<folder>/small``: half of the users take most of their items from either half of the items."""
    random = np.random.default_rng(7)
    (folder / "small").mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(N_USERS):
        preference = np.where((np.arange(N_ITEMS) < N_ITEMS // 2) == (user % 2 == 0), 9.0, 1.0)
        items = random.choice(N_ITEMS, size=random.integers(10, 16), replace=False, p=preference / preference.sum())
        lines += [f"u{user}\ti{item}\t{random.integers(1, 6)}\t{time}" for time, item in enumerate(items)]
    (folder / "small/small.inter").write_text("\n".join(lines) + "\n")
    users = [f"u{user}\t{user % 2}" for user in range(N_USERS)] + ["cold\t0"]
    (folder / "small/small.user").write_text("\n".join(["user_id:token\tgroup:token", *users]) + "\n")
    items = [f"i{n}\tThe {n}th of {'left' if n < 30 else 'right'}\tleft {n % 3}" for n in range(N_ITEMS)]
    (folder / "small/small.item").write_text(
        "\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *items]) + "\n"
    )


class Conformance:
    """Inherit, and name a model.

    Attributes:
        model: its name, or ``package.module:Class``.
        settings: on top of the small run's.
        explains: whether it has ``explain`` and ``score_pooled``.
        unreached: names of parameters that this loss does not use.
        against_pop: settings with which it beats Pop on planted-personas; None where another class shows it.
    """

    model: str
    settings: dict = {}
    explains = True
    unreached: frozenset = frozenset()
    against_pop: dict | None = {"epochs": 5}

    # --- what the tests look at ---------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory):
        torch.set_num_threads(1)
        folder = tmp_path_factory.mktemp(cls.__name__)
        write_data(folder)
        return folder

    @classmethod
    def train(cls, place, name, **settings):
        """Train into the folder ``name``; the same settings everywhere but for ``settings``."""
        small = {
            "data_path": str(place),
            "run_dir": str(place / name),
            "epochs": 8,
            "train_batch_size": 64,
            "learning_rate": 0.01,
            "topk": [5],
            "metrics": ["NDCG"],
            "valid_metric": "NDCG@5",
            "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "user": "*", "item": "*"},
            "seed": 11,  # not the seed of the split
        }
        return run(cls.model, "small", config_dict=small | cls.settings | settings)

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, place):
        """What :func:`recbole_persona.run` returns."""
        return cls.train(place, "run")

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, trained):
        """The finished run, read again."""
        return load(trained["run_dir"])

    @pytest.fixture(scope="class")
    @classmethod
    def users(cls, loaded):
        """Rows as the full sort gets them: users, or histories."""
        return next(iter(loaded.test_data))[0]

    @pytest.fixture(scope="class")
    @classmethod
    def pairs(cls, loaded, users):
        """Every row with every item but the padding, row by row."""
        items = loaded.test_data._dataset.get_item_feature()
        rows = users.repeat_interleave(len(items) - 1)
        rows.update(items[1:].repeat(len(users)))
        return rows

    # --- scores -------------------------------------------------------------------------------------------------------

    def test_predict_agrees_with_full_sort(self, loaded, users, pairs):
        whole, single = full_sort(loaded.model, users), predict(loaded.model, pairs).view(len(users), -1)
        torch.testing.assert_close(whole[:, 1:], single, rtol=1e-4, atol=1e-5)

    def test_a_batch_of_one_agrees_with_a_batch_of_many(self, loaded, users, pairs):
        many = full_sort(loaded.model, users)
        for row in range(0, len(users), 9):
            torch.testing.assert_close(full_sort(loaded.model, users[[row]]), many[[row]], rtol=1e-4, atol=1e-5)
        many = predict(loaded.model, pairs)
        for row in range(0, len(pairs), 301):
            torch.testing.assert_close(predict(loaded.model, pairs[[row]]), many[[row]], rtol=1e-4, atol=1e-5)

    def test_scores_keep_no_graph_and_change_nothing(self, loaded, users):
        before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
        first, second = full_sort(loaded.model, users), full_sort(loaded.model, users)
        assert torch.equal(first, second) and torch.isfinite(first[:, 1:]).all()
        assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())

    def test_users_without_history_get_finite_scores(self, loaded, users, pairs):
        rows, cold_pairs = cold(loaded, users), cold(loaded, pairs[:N_ITEMS])
        scores = full_sort(loaded.model, rows)
        assert torch.isfinite(scores[:, 1:]).all()
        torch.testing.assert_close(predict(loaded.model, cold_pairs), scores[0, 1:], rtol=1e-4, atol=1e-5)

    # --- files and seeds ----------------------------------------------------------------------------------------------

    def test_a_run_read_again_gives_the_same_bits(self, trained, loaded, users, monkeypatch, place):
        scores = full_sort(loaded.model, users)
        assert torch.equal(full_sort(load(trained["run_dir"]).model, users), scores)
        monkeypatch.chdir(place)  # RecBole's function writes its log where it is called
        _, model, *_ = load_data_and_model(f"{trained['run_dir']}/model.safetensors")
        model.eval()
        assert torch.equal(full_sort(model, users), scores)

    def test_a_run_tested_again_gives_the_same_result(self, trained):
        result, table = evaluate_run(trained["run_dir"])
        assert dict(result) == trained["test_result"]
        assert len(table) > 0 and abs(table["ndcg@5"].mean() - trained["test_result"]["ndcg@5"]) < 1e-4

    def test_a_seed_says_it_all(self, place, trained):
        again, other = (self.train(place, name, seed=seed) for name, seed in (("again", 11), ("other", 12)))
        first, second, third = (
            load_tree(f"{r['run_dir']}/model.safetensors")["state_dict"] for r in (trained, again, other)
        )
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        assert trained["test_result"] == again["test_result"]
        assert any(not torch.equal(first[name], third[name]) for name in first)
        assert trained["result"]["split_hash"] == other["result"]["split_hash"]

    # --- training -----------------------------------------------------------------------------------------------------

    def test_gradients_reach_every_trainable_parameter(self, trained):
        loaded = load(trained["run_dir"])
        loaded.model.train()
        for batch in loaded.train_data:
            total(loaded.model.calculate_loss(batch.to(loaded.config["device"]))).backward()
        parameters = {name: value for name, value in loaded.model.named_parameters() if value.requires_grad}
        reached = {name for name, value in parameters.items() if value.grad is not None and value.grad.abs().sum() > 0}
        assert parameters.keys() - reached == set(self.unreached)
        assert all(torch.isfinite(parameters[name].grad).all() for name in reached)

    def test_the_loss_falls(self, trained):
        losses = load_tree(f"{trained['run_dir']}/state/last.safetensors")["progress"]["train_loss_dict"]
        assert len(losses) > 2 and losses[max(losses)] < losses[min(losses)]

    @pytest.mark.slow
    def test_it_beats_pop(self):
        if self.against_pop is None:
            pytest.skip("shown by another class")
        settings = {"metrics": ["NDCG"], "valid_metric": "NDCG@10"}
        own, pop = (
            run(model, "planted-personas", config_dict=settings | more, saved=False)
            for model, more in ((self.model, self.settings | self.against_pop), ("Pop", {"epochs": 1}))
        )
        assert own["test_result"]["ndcg@10"] > pop["test_result"]["ndcg@10"]

    # --- explanations -------------------------------------------------------------------------------------------------

    def test_an_explanation_is_what_made_the_score(self, loaded, pairs):
        if not self.explains:
            pytest.skip(f"{self.model} explains nothing")
        rows = pairs[torch.arange(0, len(pairs), 7)]
        for part in (rows, rows[:1], cold(loaded, rows[:5])):
            with torch.no_grad():
                explanation = loaded.model.explain(part)
                scores = loaded.model.score_pooled(part, explanation.pooled)
            assert isinstance(explanation, Explanation) and len(explanation.weights) == len(part)
            assert torch.isfinite(explanation.weights).all() and torch.isfinite(explanation.parts).all()
            torch.testing.assert_close(scores, predict(loaded.model, part), rtol=1e-4, atol=1e-5)
            if explanation.normalised:
                sums = explanation.weights.sum(dim=1)
                assert (explanation.weights >= 0).all()
                torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)

    # --- precision and devices ----------------------------------------------------------------------------------------

    def test_bf16_autocast_on_the_cpu_agrees(self, loaded, users):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = full_sort(loaded.model, users)
        assert_close_scores(low, full_sort(loaded.model, users))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_agrees_with_the_cpu(self, trained, loaded, users):
        model = load(trained["run_dir"], {"use_gpu": True}).model.to("cuda")
        scores = full_sort(loaded.model.to("cpu"), users.to("cpu"))
        assert_close_scores(full_sort(model, users.to("cuda")).cpu(), scores)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert_close_scores(full_sort(model, users.to("cuda")).cpu(), scores)


@torch.no_grad()
def full_sort(model, rows):
    """(B, I) scores of all items."""
    return model.full_sort_predict(rows).view(len(rows), -1)


@torch.no_grad()
def predict(model, rows):
    """(B,) scores."""
    return model.predict(rows).view(-1)


def total(loss):
    """One number of a loss that may be a tuple."""
    return sum(loss) if isinstance(loss, tuple) else loss


def cold(loaded, rows):
    """The rows with the user who has no interaction, or with an empty history."""
    rows = Interaction({name: value.clone() for name, value in rows.interaction.items()})
    dataset = loaded.dataset
    rows[dataset.uid_field][:] = dataset.token2id(dataset.uid_field, "cold")
    length = loaded.config["ITEM_LIST_LENGTH_FIELD"]
    if length in rows.interaction:
        rows[length][:] = 0
        for name in rows.interaction:
            if name.endswith(loaded.config["LIST_SUFFIX"]):
                rows[name][:] = 0
    return rows


def assert_close_scores(low, exact):
    """Scores of low precision agree up to 2e-2, relative, and in nine of ten top items."""
    low, exact = low[:, 1:].float(), exact[:, 1:].float()
    assert ((low - exact).norm() / exact.norm()) <= AUTOCAST_ERROR
    tops = (scores.topk(TOP, dim=1).indices for scores in (low, exact))
    overlap = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(*(top.tolist() for top in tops))])
    assert overlap >= AUTOCAST_OVERLAP
