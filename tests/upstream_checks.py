"""One check per repair of RecBole: it passes with the repair and fails without it.

Each runs in an empty folder, in a process of its own (``upstream_forks.py``), after ``import recbole_persona``.
"""

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from upstream_models import without_first, write_tiny
from upstream_pieces import agreement, assert_user_error, pieces, rows, run, saved_and_loaded

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


# environment


@check
def numpy_names():
    run("BPR")


@check
def numpy_owns_its_names():
    own = np.long = type("long", (), {})
    pieces("BPR")
    assert np.long is own


@check
def dok_matrix_update():
    run("LightGCN")


@check
def ray_when_used():
    import recbole.quick_start

    recbole.quick_start.quick_start.tune.report(recall=1.0)
    assert "ray" not in sys.modules


@check
def mixed_precision_without_warnings():
    warnings.filterwarnings("error", ".*torch.cuda.amp")
    run("BPR")
    run("NCL")


@check
def flops_without_distutils():
    from logging import getLogger

    from recbole.data.transform import construct_transform
    from recbole.utils import get_flops

    sys.modules["distutils"] = sys.modules["distutils.version"] = None
    parts = pieces("FM")
    dataset, transform = parts.train._dataset, construct_transform(parts.config)
    assert get_flops(parts.model, dataset, parts.config["device"], getLogger(), transform) > 0


# checkpoints


@check
def safe_checkpoints():
    run("BPR")


@check
def one_file_per_trainer():
    parts = pieces("BPR")
    files = {type(parts.trainer)(parts.config, parts.model).saved_model_file for _ in range(4)}
    assert len(files) == 4


@check
def safe_load_data_and_model():
    saved_and_loaded("BPR")


@check
def modules_in_other_parameter():
    saved_and_loaded("SASRecF")


@check
def no_pickled_caches():
    class Bomb:
        def __reduce__(self):
            return Path.touch, (Path("ran"),)

    Path("saved").mkdir()
    Path("saved/tiny-Dataset.pth").write_bytes(pickle.dumps(Bomb()))
    try:
        pieces("BPR", checkpoint_dir="saved")
    finally:
        assert not Path("ran").exists()


# decision trees


@check
def trees_find_their_yaml():
    assert pieces("XGBoost").config["xgb_params"]["objective"] == "binary:logistic"


@check
def trees_name_their_extra():
    from recbole.utils import get_model

    for missing in ("lightgbm", "xgboost"):
        sys.modules[missing] = None
    assert_user_error(lambda: get_model("XGBoost"), "pip install", "[trees]")


@check
def trees_get_their_data_set():
    run("LightGBM-onehot")


@check
def trees_see_every_column():
    parts = pieces("LightGBM")
    table, _ = parts.trainer._interaction_to_sparse(parts.train)
    dataset, inter = parts.train._dataset, parts.train._dataset[:]
    classes = inter["class"]
    for token in range(1, dataset.num("class")):
        wanted = (classes == token).any(dim=1).numpy()
        assert any((column == wanted).all() for column in table.T), token
    assert any(np.allclose(column, inter["price"][:, 0].numpy()) for column in table.T)


@check
def lightgbm_loads():
    saved_and_loaded("LightGBM")


@check
def xgboost_loads():
    saved_and_loaded("XGBoost")


@check
def xgboost_evaluates_by_keyword():
    parts = pieces("XGBoost")
    warnings.filterwarnings("error", ".*as keyword args")
    parts.trainer.fit(parts.train, parts.test)


@check
def trees_in_checkpoints():
    parts = pieces("XGBoost")
    parts.trainer.fit(parts.train, parts.test)
    before = parts.trainer.evaluate(parts.test)
    parts.trainer.temp_best_file = parts.trainer.temp_file = "gone"
    moved = Path(parts.trainer.saved_model_file).rename("moved.pth")
    assert parts.trainer.evaluate(parts.test, model_file=str(moved)) == before


@check
def lightgbm_grows_once():
    parts = pieces("LightGBM", epochs=300)
    parts.trainer.fit(parts.train, parts.test)
    assert parts.trainer.epochs == 1


# graphs


@check
def kgat_without_dgl():
    assert "dgl" not in sys.modules
    run("KGAT")
    assert "dgl" not in sys.modules


@check
def scatter_without_torch_scatter():
    run("KGIN")
    run("MCCLK")


@check
def edges_stay_when_scoring():
    for name in ("KGIN", "MCCLK"):
        parts = pieces(name)
        parts.model.eval()
        batch = rows(parts.test)
        assert torch.equal(parts.model.predict(batch), parts.model.predict(batch))


@check
def ncl_clusters():
    run("NCL")
    sys.modules["faiss"] = None
    assert_user_error(lambda: run("NCL"), "faiss", "pip install")


@check
def dgcf_samples():
    run("DGCF")


@check
def ripplenet_multiplies_by_relation():
    from recbole.utils import KGDataLoaderState

    parts = pieces("RippleNet")
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    parts.train.set_mode(KGDataLoaderState.RS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        parts.model.calculate_loss(next(iter(parts.train)))
    assert max(sizes) < 512 * 16 * 64 * 64 / 10  # rows in a batch, memories, width, width


# single models


@check
def nothing_left_out_of_checkpoints():
    for name, kept in (("KGAT", {"A_in"}), ("NNCF", {"u_neigh", "i_neigh"}), ("SimpleX", {"history_item_id"})):
        assert kept <= pieces(name).model.other_parameter().keys()
    saved_and_loaded("KGAT")


@check
def stale_embeddings():
    for name in ("LightGCN", "KGIN"):
        model, batch = (parts := pieces(name)).model.eval(), rows(parts.test)
        before = model.full_sort_predict(batch)
        model.load_state_dict({key: 2 * value for key, value in model.state_dict().items()})
        assert not torch.allclose(model.full_sort_predict(batch), before)


@check
def two_towers_count_what_is_embedded():
    pieces("DSSM", numerical_features=[]).model.predict(rows(pieces("DSSM").test))
    run("DSSM")


@check
def fwfm_owns_its_weights():
    parts = pieces("FwFM")
    before = parts.model.state_dict()["weight"].clone()
    parts.trainer.fit(parts.train)
    assert not torch.equal(parts.model.state_dict()["weight"], before)


@check
def kd_dagfm_names_a_teacher():
    code = "__import__('pathlib').Path('ran').touch"
    assert_user_error(lambda: pieces("KD_DAGFM", phase="teacher_training", teacher=code), "CrossNet", "CIN")
    assert not Path("ran").exists()


@check
def ldiffrec_reads_numbers_alone():
    np.save(write_tiny("data") / "item_emb.npy", np.array([{"any": "object"}], dtype=object))
    assert_user_error(lambda: pieces("LDiffRec-grouped"), "item_emb.npy")


@check
def ldiffrec_groups():
    groups = [
        model.autoencoder.cluster_ids for model in (pieces("LDiffRec-grouped", seed=seed).model for seed in (1, 2))
    ]
    assert torch.equal(*groups)


@check
def nncf_communities():
    sys.modules["community"] = None  # python-louvain, should it be there
    run("NNCF-louvain")


@check
def nncf_neighbours():
    run("NNCF-knn")


@check
def ract_speaks():
    import logging

    heard = []
    parts = pieces("RaCT", train_stage="actor_pretrain")
    logging.getLogger().handlers = [handler := logging.Handler()]
    logging.getLogger().setLevel(logging.INFO)
    handler.emit = lambda record: heard.append(record.getMessage())
    parts.model.logger.info("Load pretrained model from", "a file")
    assert heard == ["Load pretrained model from a file"]


@check
def ksr_in_one_precision():
    run("KSR")


@check
def shan_ranks_by_the_latest_items():
    agreement("SHAN")


@check
def core_has_one_score():
    agreement("CORE")


@check
def anomaly_detection_stays_off():
    import recbole.model.sequential_recommender  # noqa: F401

    assert not torch.is_anomaly_enabled()


@check
def case_study_transforms():
    parts = pieces("SHAN")
    from recbole.utils.case_study import full_sort_scores

    scores = full_sort_scores([2, 1], parts.model, parts.test)
    batch = rows(parts.test)
    every = parts.model.full_sort_predict(batch).view(len(batch), -1)
    for user, row in zip([2, 1], scores):
        torch.testing.assert_close(row[1:], every[batch["user_id"] == user][0, 1:])


@check
def cpr_predicts():
    agreement("GRU4RecCPR")
    agreement("SASRecCPR")


@check
def cpr_reranks_what_there_is():
    for name in ("GRU4RecCPR", "SASRecCPR"):
        parts = pieces(name, reranker_CAN_NUM=10_000)
        for batch in parts.train:
            assert torch.isfinite(parts.model.calculate_loss(batch))
            break
        assert torch.isfinite(parts.model.full_sort_predict(rows(parts.test))).all()


@check
def pop_counts_every_interaction():
    for size in (7, 10_000):  # a batch of all interactions holds each item many times
        parts = pieces("Pop", train_batch_size=size)
        for batch in parts.train:
            parts.model.calculate_loss(batch)
        expected = parts.train._dataset.inter_feat["item_id"].bincount(minlength=len(parts.model.item_cnt))
        assert torch.equal(parts.model.item_cnt.squeeze(1), expected)
        assert int(parts.model.max_cnt) == int(expected.max())
    for name in ("ItemKNN", "AsymKNN", "EASE"):  # what else counts does so from the whole matrix
        few, many = (pieces(name, train_batch_size=size) for size in (7, 10_000))
        batch = rows(few.test)
        assert torch.equal(few.model.full_sort_predict(batch), many.model.full_sort_predict(batch))


@check
def random_draws_for_every_user():
    parts = pieces("Random")
    batch = rows(parts.test)
    torch.manual_seed(0)
    every = parts.model.full_sort_predict(batch).view(len(batch), -1)
    torch.manual_seed(0)
    one_by_one = [parts.model.full_sort_predict(batch[slice(row, row + 1)]) for row in range(len(batch))]
    assert torch.equal(every, torch.stack(one_by_one))


@check
def autoencoders_index_with_tuples():
    warnings.filterwarnings("error", "Using a non-tuple sequence")
    torch.set_warn_always(True)
    for name in ("CDAE", "MacridVAE", "MultiDAE", "MultiVAE", "RaCT", "RecVAE"):
        stage = {"train_stage": "actor_pretrain"} if name == "RaCT" else {}
        parts = pieces(name, **stage)
        parts.model.eval().predict(rows(parts.test))


# pandas; the copies of pandas 3 can be had in pandas 2


def as_in_pandas_3():
    warnings.simplefilter("ignore")
    if int(pd.__version__.split(".")[0]) < 3:
        pd.options.mode.copy_on_write = True


@check
def missing_values_are_filled():
    as_in_pandas_3()
    without_first(write_tiny("data"), "item", "price")
    dataset = pieces("FM", normalize_field=[]).train._dataset
    prices = dataset.item_feat["price"][:, 0]
    given = pd.read_csv("data/tiny/tiny.item", sep="\t")["price:float"]
    assert torch.isfinite(prices).all()
    assert prices[dataset.token2id("item_id", "i1")].item() == np.float32(given.mean())


@check
def empty_sequences_are_read():
    as_in_pandas_3()
    without_first(write_tiny("data"), "item", "class")
    dataset = pieces("FM").train._dataset
    first, second = (dataset.item_feat["class"][dataset.token2id("item_id", item)] for item in ("i1", "i2"))
    assert first.sum() == 0 < second.sum()


@check
def lengths_by_row():
    with warnings.catch_warnings(record=True) as heard:
        dataset = pieces("FM").train._dataset
    assert not [warning for warning in heard if "Series.agg" in str(warning.message)]
    rows = pd.read_csv("data/tiny/tiny.item", sep="\t")
    for item, classes in zip(rows["item_id:token"], rows["class:token_seq"]):
        found = dataset.item_feat["class"][dataset.token2id("item_id", item)]
        assert [dataset.id2token("class", token.item()) for token in found if token] == classes.split()


@check
def constant_sequences_are_normalised():
    as_in_pandas_3()
    write_tiny("data")
    items = pd.read_csv("data/tiny/tiny.item", sep="\t").assign(**{"vec:float_seq": "0.5 0.5"})
    items.to_csv("data/tiny/tiny.item", sep="\t", index=False)
    dataset = pieces("FM", load_col=None, normalize_field=["vec"], numerical_features=[]).train._dataset
    assert not dataset.item_feat["vec"].any()


@check
def sorting_downwards():
    from recbole.data.interaction import Interaction

    rows = Interaction({"a": torch.tensor([1, 3, 2]), "b": torch.tensor([[1.0], [2.0], [3.0]])})
    rows.sort(by="a", ascending=False)
    assert rows["a"].tolist() == [3, 2, 1] and rows["b"].flatten().tolist() == [2.0, 3.0, 1.0]


# tuning


@check
def parameter_files_are_read():
    from recbole.trainer import HyperTuning

    Path("space.txt").write_text("learning_rate choice [0.1,0.01]\nlayers choice ['[64]','[32,16]']\n")
    assert HyperTuning(print, params_file="space.txt").max_evals == 4
    Path("space.txt").write_text("learning_rate choice __import__('pathlib').Path('ran').touch()\n")
    assert_user_error(lambda: HyperTuning(print, params_file="space.txt"), "choices")
    assert not Path("ran").exists()


@check
def generators_of_the_new_kind():
    from recbole.trainer import HyperTuning

    def objective(config_dict, config_file_list):
        score = config_dict["a"] * config_dict["b"]
        results = {"best_valid_result": {"score": score}, "test_result": {"score": score}}
        return {"model": "toy", "best_valid_score": score, "valid_score_bigger": True} | results

    search = HyperTuning(objective, params_dict={"choice": {"a": [1, 2], "b": [3, 5]}}, algo="exhaustive")
    search.run()
    assert len(search.params2result) == 4 and search.best_params == {"a": 2, "b": 5}


@check
def tuning_names_its_extra():
    from recbole.trainer import HyperTuning

    sys.modules["hyperopt"] = None
    assert_user_error(lambda: HyperTuning(print, params_dict={"choice": {"a": [1]}}), "pip install", "[hyperopt]")
