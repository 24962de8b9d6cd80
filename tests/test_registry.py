"""Names of models and metrics: ours, RecBole's, anybody's; wherever RecBole looks them up."""

import importlib
import subprocess
import sys

import pytest
import recbole.config
import recbole.model.general_recommender as general
import recbole.quick_start.quick_start as quick_start
import recbole.utils
from recbole.evaluator import register

from recbole_persona import registry
from recbole_persona.config import Config, class_name
from recbole_persona.errors import UserError


@pytest.fixture
def clean():
    """What a test registers is forgotten after it."""
    tables = (
        registry.MODELS,
        registry.METRICS,
        register.metrics_dict,
        register.metric_types,
        register.metric_information,
    )
    kept = [dict(table) for table in tables]
    smaller = list(register.smaller_metrics)
    yield
    for table, before in zip(tables, kept):
        table.clear()
        table.update(before)
    register.smaller_metrics[:] = smaller


def test_a_bare_name_is_found_in_any_case():
    assert registry.get_model("BPR") is registry.get_model("bpr") is registry.get_model("recbole:BPR") is general.BPR


def test_every_name_of_recbole_is_listed_and_found():
    names = registry.recbole_model_names()
    assert len(names) == len(set(names)) and {"BPR", "SASRec", "KGAT", "FM", "XGBoost"} <= set(names)
    exported = set()
    for package in ("general", "sequential", "context_aware", "knowledge_aware"):
        module = importlib.import_module(f"recbole.model.{package}_recommender")
        exported |= {name for name in dir(module) if isinstance(getattr(module, name), type)}
    assert exported <= set(names)


def test_a_path_is_anybodys(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from recbole.model.general_recommender import BPR\nclass Mine(BPR):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.get_model("mine:Mine")
    assert issubclass(found, general.BPR) and found is not general.BPR
    assert Config("mine:Mine", "ml-100k")["model"] == "mine:Mine"
    assert class_name(found) == "mine:Mine" and class_name(general.BPR) == "BPR"


def test_a_broken_module_of_the_user_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        registry.get_model("broken_one:Model")


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(UserError, match=r"the nearest .*LightGCN"):
        registry.get_model("LigthGCN")
    with pytest.raises(UserError, match=r"no model named 'Qqqqqqqqqqqq'\."):
        registry.get_model("Qqqqqqqqqqqq")
    with pytest.raises(UserError, match=r"the nearest .*AMPCF"):
        registry.get_model("AMPFC")


def test_ours_comes_first_and_recboles_by_prefix(clean):
    registry.register_model("DIEN", "recbole_persona.registry:ModelEntry", paper="a test", aliases=("dien2",))
    assert registry.get_model("DIEN") is registry.get_model("dien2") is registry.ModelEntry
    assert registry.get_model("recbole:DIEN").__module__ == "recbole.model.sequential_recommender.dien"
    assert registry.canonical_name("dien2") == "DIEN" and registry.canonical_name("recbole:DIEN") == "recbole:DIEN"
    assert registry.canonical_name("bpr") == registry.canonical_name("recbole:bpr") == "BPR"


def test_registration_is_checked(clean):
    registry.register_model("Own", "package.module:Own", paper="a test", aliases=("mine",), keys=("own_key",))
    for arguments, sentence in [
        (dict(name="OWN", path="a:B"), "the name 'own' is taken"),
        (dict(name="Other", path="a:B", aliases=("mine",)), "the name 'mine' is taken"),
        (dict(name="Other", path="a:B", aliases=("Mine2",)), "not in lower case"),
        (dict(name="Other", path="a.B"), "not of the form package.module:Class"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            registry.register_model(**arguments, paper="a test")
    with pytest.raises(ValueError, match="a metric named 'ndcg' is registered already"):
        registry.register_metric("NDCG", "a:B", type="RANKING", needs=("rec.topk",))


def test_a_registered_metric_is_known_to_recbole(clean):
    registry.register_metric("Own", "recbole.evaluator.metrics:NDCG", type="RANKING", needs=("rec.topk",), smaller=True)
    made = Config("BPR", "ml-100k", config_dict={"metrics": ["Own", "Recall"], "valid_metric": "Own@10"})
    assert made["valid_metric_bigger"] is False
    assert type(register.metrics_dict["own"](made)).__name__ == "NDCG"


def test_declared_keys_are_known(clean):
    registry.register_model("Own", "recbole.model.general_recommender:BPR", paper="a test", keys=("own_key",))
    assert Config("Own", "ml-100k", config_dict={"own_key": 3})["own_key"] == 3
    with pytest.raises(UserError, match="no config key 'own_key'"):
        Config("BPR", "ml-100k", config_dict={"own_key": 3})


def test_recbole_finds_ours_wherever_it_looks():
    assert recbole.utils.get_model is recbole.utils.utils.get_model is quick_start.get_model is registry.get_model
    assert recbole.utils.get_trainer is quick_start.get_trainer is registry.get_trainer
    assert recbole.config.Config is recbole.config.configurator.Config or recbole.config.Config is Config
    assert quick_start.Config is Config


def test_names_imported_before_us_are_replaced_and_no_model_is_imported():
    code = (
        "import sys, recbole.utils\n"
        "from recbole.utils import get_model, get_trainer\n"
        "from recbole.config import Config\n"
        "import recbole_persona, recbole_persona.registry as r, recbole_persona.config as c\n"
        "assert get_model is r.get_model and get_trainer is r.get_trainer and Config is c.Config\n"
        "assert not [name for name in sys.modules if name.startswith('recbole_persona.models.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
