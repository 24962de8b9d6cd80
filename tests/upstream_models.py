"""One short run of every model class that RecBole ships, on a tiny generated data set.

The tests import it, ``docs/upstream.py`` runs it, and as a script it is the second process of a test:
``python upstream_models.py scores`` reads names of saved models from standard input and answers each with a file of
scores. Nothing here needs ``recbole_persona`` before a function is called, so that bare RecBole can be measured too.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

USERS, ITEMS, ATTRIBUTES, WIDTH = 40, 30, 10, 64
CLASSES = ["Action", "Comedy", "Drama", "Horror"]


def write_tiny(folder) -> Path:
    """Write the data set ``tiny`` under ``folder``; returns its directory. The same files each time."""
    random = np.random.default_rng(0)
    target = Path(folder) / "tiny"
    target.mkdir(parents=True, exist_ok=True)

    def table(suffix, header, rows):
        lines = ["\t".join(header)] + ["\t".join(map(str, row)) for row in rows]
        (target / f"tiny.{suffix}").write_text("\n".join(lines) + "\n")

    inter = []
    for user in range(1, USERS + 1):
        for step, item in enumerate(random.permutation(ITEMS)[: random.integers(8, 16)]):
            inter.append((f"u{user}", f"i{item + 1}", random.integers(1, 6), 1000 * step + user))
    table("inter", ["user_id:token", "item_id:token", "rating:float", "timestamp:float"], inter)
    users = [(f"u{u}", 20 + u % 5, "MF"[u % 2]) for u in range(1, USERS + 1)]
    table("user", ["user_id:token", "age:token", "gender:token"], users)
    items = [
        (f"i{i}", 1990 + i % 7, " ".join(random.permutation(CLASSES)[: 1 + i % 3]), round(random.random(), 3))
        for i in range(1, ITEMS + 1)
    ]
    table("item", ["item_id:token", "release_year:token", "class:token_seq", "price:float"], items)
    entities = [f"e{e}" for e in range(1, ITEMS + ATTRIBUTES + 1)]
    relations = ["film.actor", "film.director", "film.genre"]
    triples = [
        (f"e{i}", relation, f"e{ITEMS + 1 + (i * (k + 1) + k) % ATTRIBUTES}")
        for i in range(1, ITEMS + 1)
        for k, relation in enumerate(relations)
    ]
    table("kg", ["head_id:token", "relation_id:token", "tail_id:token"], triples)
    table("link", ["item_id:token", "entity_id:token"], [(f"i{i}", f"e{i}") for i in range(1, ITEMS + 1)])

    np.save(target / "item_emb.npy", random.normal(size=(ITEMS, WIDTH)).astype(np.float32))

    def vectors(names):
        return [(name, " ".join(f"{value:.4f}" for value in random.normal(size=WIDTH))) for name in names]

    table("ent", ["ent_id:token", "ent_emb:float_seq"], vectors(entities))
    table("rel", ["rel_id:token", "rel_emb:float_seq"], vectors(relations))
    return target


def bare_faults(folder, *names) -> None:
    """Print, as JSON, what ends each model in bare RecBole; null where nothing does. Nothing of ours may be imported."""
    faults = {}
    for name in names:
        try:
            train(name, folder, folder)
            faults[name] = None
        except Exception as error:
            place = next(
                frame for frame in traceback.extract_tb(error.__traceback__)[::-1] if "recbole" in frame.filename
            )
            text = str(error).strip().split(". ")[0].splitlines()[0]
            where = f"{place.filename.rpartition('recbole/')[2]}:{place.lineno}"
            faults[name] = f"{type(error).__name__}: {text} ({where})"
    assert "recbole_persona" not in sys.modules
    print(json.dumps(faults))


def without_first(target, suffix, column) -> None:
    """Take the first value of a column away from a file of the data set in ``target``."""
    file = target / f"tiny.{suffix}"
    header, first, *others = file.read_text().splitlines()
    cells = first.split("\t")
    cells[[name.split(":")[0] for name in header.split("\t")].index(column)] = ""
    file.write_text("\n".join([header, "\t".join(cells), *others]) + "\n")


def stages(name) -> list[tuple[str, dict]]:
    """The training stages of a model or of a variant: the model of each, and its settings without folders."""
    settings = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    own = settings["variants" if name in settings["variants"] else "models"].get(name, {})
    shared = {"epochs": 1, "show_progress": False, "state": "ERROR", "train_batch_size": 512, "gpu_id": ""}
    result = []
    for stage in own if isinstance(own, list) else [own]:
        model = stage.get("model", name.split("-")[0])
        if "recbole_persona" not in sys.modules:  # which alone reads recbole:DIN
            model = model.removeprefix("recbole:")
        stage = {key: value for key, value in stage.items() if key != "model"}
        result.append((model, shared | settings["types"][model_type(model)] | stage))
    return result


@dataclass
class Trained:
    """A model after its last stage: where it was saved, what it scored, and the CPU seconds of all stages.

    ``random``: whether it draws random numbers when it scores.
    """

    file: str
    scores: torch.Tensor
    random: bool
    valid: dict
    test: dict
    seconds: float


def model_type(name) -> str:
    from recbole.utils import get_model

    return get_model(name).type.name


def train(name, data_path, folder) -> Trained:
    """Train, evaluate and save one model, step by step as RecBole's documentation does, under ``folder``."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    start, files = time.process_time(), []
    for number, (stage_model, stage) in enumerate(stages(name)):
        filled = {key: value.format(*files) if isinstance(value, str) else value for key, value in stage.items()}
        folders = {"data_path": str(data_path), "checkpoint_dir": str(Path(folder) / f"{name}-{number}")}
        config = Config(model=stage_model, dataset="tiny", config_dict=filled | folders)
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        dataset = create_dataset(config)
        train_data, valid_data, test_data = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        _, valid = trainer.fit(train_data, valid_data, saved=True, show_progress=False)
        test = trainer.evaluate(test_data, load_best_model=True, show_progress=False)
        files.append(trainer.saved_model_file)
    seconds = time.process_time() - start
    scores, again = (score(config, trainer.model, test_data, seed) for seed in (0, 1))
    return Trained(files[-1], scores, not torch.equal(scores, again), valid, test, seconds)


@torch.no_grad()
def score(config, model, test_data, seed=0) -> torch.Tensor:
    """Scores of the model for every row of the test data: ``predict``, and ``full_sort_predict`` where there is one."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    if config["MODEL_TYPE"].name == "DECISIONTREE":
        return tree_scores(config, model, test_data)
    model.eval()
    rows = test_data._dataset[: len(test_data._dataset)]
    rows = test_data.transform(test_data._dataset, rows).to(config["device"])
    parts = [model.predict(rows).flatten()]
    try:
        parts.append(model.full_sort_predict(rows).flatten())
    except NotImplementedError:
        pass
    return torch.cat(parts).double().cpu()


def tree_scores(config, model, test_data):
    from recbole.utils import get_trainer

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.evaluate(test_data, load_best_model=False)
    return trainer.eval_pred.double()


def answer_with_scores() -> None:
    """For each saved model named on standard input, print the name of a file of its scores, or the traceback."""
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_model, init_seed

    from recbole_persona.upstream.files import load_tree

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what RecBole prints must not mix with the answers
    for line in sys.stdin:
        file = line.strip()
        try:
            config, model, _, train_data, _, test_data = load_data_and_model(file)
            scores = score(config, model, test_data)
            init_seed(config["seed"] + 1, config["reproducibility"])
            other = get_model(config["model"])(config, train_data._dataset).to(config["device"])
            state = load_tree(file)
            other.load_state_dict(state["state_dict"])
            other.load_other_parameter(state.get("other_parameter"))
            target = f"{file}.scores.npy"
            np.save(target, torch.stack([scores, score(config, other, test_data)]).numpy())
        except Exception:
            target = f"{file}.error"
            Path(target).write_text(traceback.format_exc())
        print(target, file=answers, flush=True)


def print_tables(folder) -> None:
    """Print the version of pandas, then a line per way of building a data set: a hash of all that was built.

    The data set is written to ``folder`` and has gaps: a price, an age, and the classes of an item are missing.
    """
    import pandas
    from recbole.config import Config
    from recbole.data import create_dataset

    print("pandas", pandas.__version__)
    for suffix, column in (("item", "price"), ("item", "class"), ("user", "age")):
        without_first(write_tiny(folder) if column == "price" else Path(folder) / "tiny", suffix, column)
    every = {"load_col": None}
    priced = every | {"numerical_features": ["price"]}
    ways = [
        (
            "BPR",
            {
                "load_col": {"inter": ["user_id", "item_id", "rating"]},
                "user_inter_num_interval": "[10,inf)",
                "val_interval": {"rating": "[2,5]"},
                "rm_dup_inter": "first",
            },
        ),
        ("FM", every | {"threshold": {"rating": 3}}),
        ("FM", priced | {"normalize_all": True}),
        ("FM", priced | {"discretization": {"price": {"method": "LD"}}}),
        (
            "FM",
            priced | {"discretization": {"price": {"method": "ED", "bucket": 4}}},
        ),
        *((name, stages(name)[-1][1]) for name in ("KGAT", "SASRecF", "KSR", "DIN", "XGBoost-onehot")),
    ]
    for name, settings in ways:
        fixed = {"data_path": str(folder), "epochs": 1, "show_progress": False, "state": "ERROR", "gpu_id": ""}
        model = name.split("-")[0]
        dataset = create_dataset(Config(model=model, dataset="tiny", config_dict=settings | fixed))
        content = hashlib.sha256()
        for feat in (getattr(dataset, feat) for feat in sorted(dataset.feat_name_list)):
            for field in sorted(feat):
                content.update(repr((field, [np.asarray(value).tolist() for value in feat[field]])).encode())
        for field, tokens in sorted(dataset.field2id_token.items()):
            content.update(f"{field} {[str(token) for token in tokens]}".encode())
        print(name, content.hexdigest())


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:]
    if command == "by-hand":  # as answers in forums advise
        names = {"float": float, "int": int, "object": object, "str": str, "complex": complex, "unicode": str}
        names |= {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
        vars(np).update({name: value for name, value in names.items() if name not in vars(np)})
    if command in ("bare", "by-hand"):
        bare_faults(*arguments)
    else:
        import recbole_persona  # noqa: F401

        {"scores": answer_with_scores, "tables": print_tables}[command](*arguments)
