"""Searches over real servers, PostgreSQL and MariaDB: workers, one of them killed; a server that goes away and comes back."""

import json

import optuna
import psutil
import pytest
from database_servers import MariaDB, PostgreSQL
from guesser import Guesser, diary, write_data
from tune_process import STUDY, check_continued, finish, kill_one, start, states, wait_for_steps

from recbole_persona import tune
from recbole_persona.search.storage import Storage

pytestmark = pytest.mark.slow


@pytest.fixture(params=[PostgreSQL, MariaDB], ids=lambda kind: kind.__name__)
def server(request):
    if missing := request.param.missing():
        pytest.skip(missing)
    pytest.importorskip(request.param.driver, reason=f"The driver {request.param.driver} is not installed.")
    with request.param() as server:
        yield server


def trials(url):
    return optuna.load_study(study_name=STUDY, storage=Storage(url).optuna).trials


def test_four_workers_and_one_is_killed_in_mid_trial(server, tmp_path):
    """No trial is lost, none is counted twice, none is left running; the killed one goes on from its checkpoint."""
    file = tmp_path / "diary"
    process = start(tmp_path, storage=server.url, trials=16, workers=4, pause=0.4, grace=4, pruner="none")
    wait_for_steps(file, 6)
    killed = kill_one(file, beside=[process.pid])
    status, printed, error = finish(process, seconds=400)
    assert status == 0, error
    assert "16 trials, 0 pruned, 0 failed; 48 epochs" in printed
    check_continued(file)
    found = trials(server.url)
    ended = [trial.state.name for trial in found]
    assert ended.count("COMPLETE") == 16 and ended.count("FAIL") == 1 and len(ended) == 17
    (lost,) = (trial for trial in found if trial.state.name == "FAIL")
    assert lost.user_attrs["process"]["pid"] == killed
    (retried,) = (trial for trial in found if trial.system_attrs.get("retry_history") == [lost.number])
    assert retried.params == lost.params and retried.state.name == "COMPLETE"
    assert len({json.dumps(trial.params) for trial in found}) == 16
    assert len({pid for pid, _, _ in diary(file)}) >= 4
    result = json.loads((tmp_path / "study/study.json").read_text())
    assert sorted(row["number"] for row in result["trials"]) == [t.number for t in found if t is not lost]


def test_a_search_on_two_machines(server, tmp_path):
    """The same command elsewhere, with the same storage and a folder of its own, works on the same trials."""
    (tmp_path / "there").mkdir()
    here = start(tmp_path, storage=server.url, trials=8, pause=1.0, grace=4)
    wait_for_steps(tmp_path / "diary", 1)
    options = {"data_path": tmp_path / "data", "diary": tmp_path / "diary", "study_dir": tmp_path / "there/study"}
    there = start(tmp_path / "there", storage=server.url, trials=8, pause=1.0, grace=4, join=True, **options)
    for process in (there, here):
        status, _, error = finish(process)
        assert status == 0, error
    assert len({pid for pid, _, _ in diary(tmp_path / "diary")}) == 2
    assert len(trials(server.url)) == 8 and not (tmp_path / "there/study/study.json").exists()


def test_a_server_that_goes_away_and_comes_back(server, tmp_path):
    """The search ends in one sentence, and goes on where its trial stood."""
    file = tmp_path / "diary"
    options = {"storage": server.url, "trials": 6, "pause": 0.3, "pruner": "none"}
    process = start(tmp_path, **options)
    wait_for_steps(file, 5)
    server.stop()
    status, _, error = finish(process)
    assert status == 2 and "Traceback" not in error
    (last,) = error.strip().splitlines()
    assert last.startswith(f"recbole-persona: The storage {server.url.replace('://', f'+{server.driver}://')} failed (")
    assert last.endswith("trials that had finished are kept in it: mend it, and go on with --resume.")
    status, _, error = finish(start(tmp_path, **options, resume=True))
    assert status == 2 and "failed (" in error and "\n" not in error.strip()  # it is still away
    server.start()
    status, printed, error = finish(start(tmp_path, **options, resume=True))
    assert status == 0, error
    assert "6 trials, 0 pruned, 0 failed; 18 epochs" in printed
    check_continued(file)
    assert "RUNNING" not in states(Storage(server.url).optuna)


def test_with_workers_too_the_sentence_is_one(server, tmp_path):
    process = start(tmp_path, storage=server.url, trials=12, workers=2, pause=0.3)
    wait_for_steps(tmp_path / "diary", 3)
    server.stop()
    status, _, error = finish(process)
    assert status == 2 and "\n" not in error.strip() and "go on with --resume" in error
    server.start()


def test_a_password_is_on_no_screen_in_no_file_and_no_command_line(server, tmp_path, monkeypatch):
    """PostgreSQL asks this user for none and takes any; MariaDB refuses it."""
    url = server.url.replace("tester@", "tester:Canary7%40%2F@")
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    process = start(tmp_path, trials=4, workers=2, pause=0.3)
    lines = []
    if isinstance(server, PostgreSQL):
        wait_for_steps(tmp_path / "diary", 3)
        lines = [" ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)]
        assert any("--join" in line for line in lines)
    status, printed, error = finish(process)
    shown = server.url.replace("://", f"+{server.driver}://").replace("tester@", "tester:***@")
    if isinstance(server, PostgreSQL):
        assert status == 0 and json.loads((tmp_path / "study/study.json").read_text())["storage"] == shown
    else:
        assert status == 2 and f"The storage {shown} failed (" in error and "Access denied" in error
    files = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in (*lines, printed, error, *files) if "Canary7" in text]


def test_optunas_samplers_over_the_server(server, tmp_path):
    """In this process; the study can be read by anybody who has the URL."""
    found = tune(
        Guesser,
        "tiny",
        config_dict=write_data(tmp_path),
        space={"skill": {"low": 0.0, "high": 0.2, "step": 0.1}, "width": [1, 2]},
        study_dir=tmp_path / "study",
        storage=server.url,
        sampler="grid",
        seeds=[2020],
    )
    assert found["budget"]["trials"] == 6 and len(trials(server.url)) == 6 and found["test"][0]["test"]
