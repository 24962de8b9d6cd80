import gc
import signal

import pytest

import recbole_persona

pytest.register_assert_rewrite("conformance")
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore Ctrl-C, which tests send


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Every run collects garbage, to measure its memory: it need not walk through all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """RecBole's own entry points write into the working directory: let it be an empty one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the small data set of the tests of evaluation lies."""
    from evaluate_data import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def ampcf(tmp_path_factory):
    """The folder of a short run of AMPCF with three personas on ml-100k, to be read only."""
    settings = {"epochs": 6, "n_personas": 3, "eval_step": 6, "run_dir": str(tmp_path_factory.mktemp("ampcf"))}
    return recbole_persona.run("AMPCF", "ml-100k", config_dict=settings)["run_dir"]
