"""Where the trials are kept: killed processes, torn and foreign files, full disks, several workers."""

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from guesser import SPACE, Guesser, diary, write_data
from tiny import lose
from tune_process import check_continued, command, finish, kill_one, start, states, study, wait_for_steps

from recbole_persona import run, tune
from recbole_persona.cli import main
from recbole_persona.errors import StorageError, UserError
from recbole_persona.search.storage import Storage, this_process
from recbole_persona.search.study import tally


def search(place, more=None, **options):
    options = {"space": SPACE, "trials": 3, "seeds": [], "study_dir": place / "study", **options}
    return tune(Guesser, "tiny", config_dict=write_data(place) | (more or {}), **options)


def url_of(kind, place) -> str:
    return f"{kind}:///{place}/trials.{kind}"


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("study.db", "Cannot read the storage; write sqlite:///FILE, postgresql://"),
        ("sqlite://", r"names no file; write sqlite:///FILE"),
        ("sqlite:///:memory:", "names no file"),
        ("journal://study.log", r"names no file; write journal:///FILE"),
        ("mysql+nothing://localhost/db", r"driver of mysql\+nothing is not installed: .*recbole_persona\[mysql\]"),
        ("oracle://localhost/db", "cannot be kept in oracle; write sqlite"),
    ],
)
def test_urls_that_cannot_be(url, sentence):
    with pytest.raises(UserError, match=sentence):
        Storage(url)


def test_the_command_line_reads_the_storage_from_the_environment(tmp_path, monkeypatch):
    """Where ``--storage`` is not given; a call from Python does not."""
    monkeypatch.setenv("OPTUNA_STORAGE", url_of("sqlite", tmp_path))
    flags = command(tmp_path, trials=1, epochs=1, diary=None)[command(tmp_path).index("tune") :]
    assert main(flags) == 0
    assert states(url_of("sqlite", tmp_path)) == ["COMPLETE"] and not (tmp_path / "study/study.db").exists()
    assert main([*flags, f"--storage=journal:///{tmp_path}/given", f"--study_dir={tmp_path}/other"]) == 0
    search(tmp_path, {"epochs": 1}, trials=1, study_dir=tmp_path / "python", study_name="python")
    assert (tmp_path / "given").is_file() and (tmp_path / "python/study.db").is_file()
    assert states(url_of("sqlite", tmp_path)) == ["COMPLETE"]


def test_files_that_are_none_of_ours(tmp_path):
    (tmp_path / "text.db").write_text("no database, " * 100)
    with pytest.raises(StorageError, match=r"text.db failed \(file is not a database\)"):
        Storage(f"sqlite:///{tmp_path}/text.db")
    (tmp_path / "text.log").write_text("no journal\n" * 10)
    with pytest.raises(UserError, match=r"text.log cannot be read as a journal"):
        Storage(f"journal:///{tmp_path}/text.log")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="failed"):
        Storage(f"sqlite:///{tmp_path}/file/study.db")


def test_tables_of_another_optuna(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    engine = Storage(url).optuna.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        connection.exec_driver_sql("UPDATE version_info SET schema_version = 3, library_version = '0.9.0'")
    with pytest.raises(UserError, match="tables of this storage are of another Optuna"):
        Storage(url)


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_off_and_the_search_goes_on(tmp_path):
    url = url_of("journal", tmp_path)
    first = search(tmp_path, storage=url, trials=1)
    file = tmp_path / "trials.journal"
    whole = file.read_bytes()
    for torn in (whole[:-20], whole + b'{"op_code":4,"worker_id":"x', whole + b"{"):
        file.write_bytes(torn)
        Storage(url)
        assert whole.startswith(file.read_bytes()) and file.read_bytes().endswith(b"\n")
    file.write_bytes(whole + b'{"op_code":4,"wor')
    more = search(tmp_path, storage=url, trials=2, resume=True)
    assert more["trials"][:1] == first["trials"] and len(more["trials"]) == 2


def test_a_tail_that_is_torn_while_others_write(tmp_path):
    """A killed writer leaves half a line; the next one to append cuts it off first."""
    url = url_of("journal", tmp_path)
    search(tmp_path, storage=url, trials=1)
    here = study(Storage(url).optuna)
    with open(tmp_path / "trials.journal", "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","tri')
    here.set_user_attr("after", 1)
    again = study(Storage(url).optuna)
    assert again.user_attrs["after"] == 1 and len(again.trials) == 1


# --- killed processes -------------------------------------------------------------------------------------------------


def in_another_process(function, *arguments, **options) -> int:
    """Call in a process forked from this one, which has imported everything; returns how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments, **options)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_killed_search_goes_on_from_its_checkpoint(tmp_path, kind):
    """SIGKILL in the second step of the first trial; its retry takes that step again, and none before it."""
    url, file = url_of(kind, tmp_path), tmp_path / "diary"
    more, options = {"fault": "kill", "diary": str(file)}, {"storage": url, "trials": 2}
    assert in_another_process(search, tmp_path, more, **options) == -9
    assert states(Storage(url).optuna) == ["RUNNING"]
    found = search(tmp_path, more, **options, resume=True)
    assert [step for _, _, step in diary(file)] == [0, 1, 1, 2, 0, 1, 2]
    assert sorted(states(Storage(url).optuna)) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert found["budget"] == found["budget"] | {"trials": 2, "failed": 0, "epochs": 6}
    first, retried = (study(Storage(url).optuna).trials[n] for n in (0, 1))
    assert retried.params == first.params and retried.system_attrs["retry_history"] == [0]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a search that was killed in its first trial, to be copied, and the settings of the search."""
    place = tmp_path_factory.mktemp("killed")
    more = {"fault": "kill", "diary": str(place / "diary")}
    assert in_another_process(search, place, more, trials=1) == -9
    return place, more


WHOLE = {".lock", "config.yaml", "ids.json", "model.safetensors", "state", "tensorboard", "train.log"}


@pytest.mark.parametrize(
    "lost",
    [
        {"config.yaml"},
        {"state"},
        {"state/last.safetensors"},
        {"model.safetensors"},
        {"per_user.csv.gz"},
        WHOLE - {".lock"},
    ],
    ids=lambda lost: "all but the lock" if len(lost) > 1 else min(lost),
)
def test_a_killed_trial_whose_folder_is_half_deleted_is_done_anew(killed, tmp_path, lost):
    shutil.copytree(killed[0] / "study", tmp_path / "study")
    more, folder = killed[1], tmp_path / "study/trials/0"
    assert {file.name for file in folder.iterdir()} == WHOLE
    if lost == {"per_user.csv.gz"}:  # of a trial that had ended, and was killed before it could say so
        run(
            config_file_list=[str(folder / "config.yaml")],
            config_dict={"run_dir": str(folder)},
            resume=True,
            tested=False,
        )
    lose(folder, *lost)
    before = len(diary(more["diary"]))
    found = search(tmp_path, more, trials=1, resume=True)
    steps = [step for _, _, step in diary(more["diary"])[before:]]
    assert steps in ([0, 1, 2], [0, 0, 1, 2])  # where a config.yaml is left, the batch that is tried counts as a step
    assert found["budget"] == found["budget"] | {"trials": 1, "failed": 0, "epochs": 3}
    assert found["trials"][0]["params"] == {"skill": 0.5, "width": 2} and found["best_value"] > 0
    assert not (tmp_path / "study/trials").exists()


def test_a_trial_is_not_continued_from_the_folder_of_another_study(killed, tmp_path):
    """As it lies there when somebody deletes study.db and begins again."""
    shutil.copytree(killed[0] / "study", tmp_path / "study")
    (tmp_path / "study/study.db").unlink()
    found = search(tmp_path, {**killed[1], "skill": 0.25}, space={"width": [2, 3]}, trials=1)
    assert found["budget"] == found["budget"] | {"trials": 1, "failed": 0, "epochs": 3}


def test_a_half_deleted_test_of_the_best_settings_is_done_again(tmp_path):
    first = search(tmp_path, trials=1, seeds=[1])
    folder = tmp_path / "study/best/0-seed-1"
    for lost in ({"config.yaml"}, {"state"}, {"result.json", "model.safetensors"}):
        (tmp_path / "study/study.json").unlink()
        lose(folder, *lost)
        assert search(tmp_path, trials=1, seeds=[1], resume=True) == first


def test_a_trial_that_is_killed_again_and_again_counts_as_failed(tmp_path):
    """After three retries; what it was is in the result."""
    url = url_of("sqlite", tmp_path)
    search(tmp_path, storage=url, trials=1)
    here, storage = study(url), Storage(url)
    here.enqueue_trial({"skill": 0.3, "width": 1})
    for _ in range(4):
        trial = here.ask()
        SPACE_OF = {
            "skill": trial.suggest_float("skill", -1, 1),
            "width": trial.suggest_categorical("width", [1, 2, 3]),
        }
        assert SPACE_OF == {"skill": 0.3, "width": 1}
        with storage.claim(here):
            storage.reap(here)  # a trial of no process
            storage.reap(here)  # not twice
    assert states(url) == ["COMPLETE"] + ["FAIL"] * 4
    found = search(tmp_path, storage=url, trials=3, resume=True)
    assert [row["reason"] for row in found["trials"]] == [None, "its process was killed 4 times", None]


def test_a_trial_on_another_machine_is_left_alone_until_its_heart_stops(tmp_path):
    url = url_of("sqlite", tmp_path)
    search(tmp_path, storage=url, trials=1)
    storage, here = Storage(url, grace=60), study(url)
    trial = here.ask()
    storage.optuna.record_heartbeat(trial._trial_id)
    trial.set_user_attr("process", this_process() | {"host": "elsewhere"})
    with storage.claim(here):
        storage.reap(study(storage.optuna))
    assert states(url) == ["COMPLETE", "RUNNING"]
    with storage.optuna.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-70 seconds')")
    with storage.claim(here):
        storage.reap(study(storage.optuna))
    assert states(url) == ["COMPLETE", "FAIL", "WAITING"]


def test_the_last_to_work_waits_for_a_stale_trial_and_does_it(tmp_path):
    """Of a machine that has gone: the search ends with exactly its number of trials, none of them running."""
    url = url_of("sqlite", tmp_path)
    search(tmp_path, storage=url, trials=1)
    storage, here = Storage(url), study(url)
    trial = here.ask()
    trial.suggest_float("skill", -1, 1)
    storage.optuna.record_heartbeat(trial._trial_id)
    trial.set_user_attr("process", this_process() | {"host": "elsewhere"})
    found = search(tmp_path, storage=url, trials=2, resume=True, grace=2)
    assert [row["number"] for row in found["trials"]] == [0, 2] and states(url) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study(url).trials[2].params["skill"] == trial.params["skill"]


# --- several workers --------------------------------------------------------------------------------------------------


def test_a_worker_is_a_process_that_joins(tmp_path, monkeypatch, capfd):
    """One trial needs one worker; the URL is in its environment, and not in the command line that others see.

    SQLite takes a password in its URL and does nothing with it: it is on no screen and in no file.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    url, more = f"{url_of('sqlite', tmp_path)}?password=Canary7", {"diary": str(tmp_path / "diary"), "pause": 0.5}
    with ThreadPoolExecutor(1) as thread:
        searching = thread.submit(search, tmp_path, more, storage=url, trials=1, workers=2)
        ((pid, _, _), *_) = wait_for_steps(tmp_path / "diary", 1)
        line = " ".join(psutil.Process(pid).cmdline())
        found = searching.result()
    assert "tune --join" in line and url not in line and "storage" not in line and pid != os.getpid()
    assert found["budget"]["trials"] == 1 and states(url) == ["COMPLETE"]
    assert found["storage"] == f"{url_of('sqlite', tmp_path)}?***"
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [text for text in (*capfd.readouterr(), line) if "Canary7" in text]
    assert not [content for content in files if b"Canary7" in content]


@pytest.mark.slow
def test_two_workers_and_a_kill(tmp_path):
    """The trials are exactly as many as asked; the killed worker is started again, and its trial goes on."""
    url, file = url_of("sqlite", tmp_path), tmp_path / "diary"
    process = start(tmp_path, storage=url, trials=4, workers=2, pause=0.2, pruner="none")
    wait_for_steps(file, 3)
    kill_one(file, beside=[process.pid])
    status, printed, error = finish(process)
    assert status == 0, error
    assert "4 trials, 0 pruned, 0 failed; 12 epochs" in printed
    check_continued(file)
    result = json.loads((tmp_path / "study/study.json").read_text())
    assert len(result["trials"]) == 4 and len({json.dumps(row["params"]) for row in result["trials"]}) == 4
    assert len({pid for pid, _, _ in diary(file)}) >= 2
    assert states(url).count("RUNNING") == 0 and states(url).count("WAITING") == 0 and states(url).count("FAIL") == 1


@pytest.mark.slow
def test_a_fault_of_a_worker_is_the_sentence_of_the_search(tmp_path):
    process = start(tmp_path, trials=20, workers=2, fault="value")
    status, _, error = finish(process)
    assert status == 2
    last = error.strip().splitlines()[-1]
    assert re.match(r"recbole-persona: The first \d trials all failed, the last because: ValueError: 2 heads", last)


@pytest.mark.slow
def test_ctrl_c_with_workers(tmp_path):
    url, file = url_of("sqlite", tmp_path), tmp_path / "diary"
    process = start(tmp_path, storage=url, trials=6, workers=2, pause=0.3)
    wait_for_steps(file, 3)
    process.terminate()
    status, _, error = finish(process)
    assert status == 130 and "go on with --resume" in error.strip().splitlines()[-1]
    assert "RUNNING" not in states(url)
    assert finish(start(tmp_path, storage=url, trials=6, workers=2, pause=0.3, resume=True))[0] == 0
    check_continued(file)
    assert len(json.loads((tmp_path / "study/study.json").read_text())["trials"]) == 6


def stop_between_writes(process, file):
    """SIGSTOP while the process does not hold the database: nobody could write to it for as long as it sleeps."""
    while True:
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with closing(sqlite3.connect(file, timeout=0.1)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.1)


@pytest.mark.slow
def test_a_process_that_only_slept_gives_its_trial_up(tmp_path):
    """Taken for dead, it holds its folder still: the trial is done in another, and the sleeper goes on with the next."""
    url, file = url_of("sqlite", tmp_path), tmp_path / "diary"
    options = {"storage": url, "trials": 3, "pause": 0.5, "grace": 2, "pruner": "none"}
    sleeper = start(tmp_path, **options)
    wait_for_steps(file, 2)
    stop_between_writes(sleeper, tmp_path / "trials.sqlite")
    helper = start(tmp_path, **options, join=True)
    wait_for_steps(file, 5)
    sleeper.send_signal(signal.SIGCONT)
    for process in (helper, sleeper):
        status, _, error = finish(process)
        assert status == 0, error
    assert sorted(states(url)) == ["COMPLETE"] * 3 + ["FAIL"]
    result = json.loads((tmp_path / "study/study.json").read_text())
    assert result["budget"] == result["budget"] | {"trials": 3, "failed": 0, "epochs": 9}
    assert len({pid for pid, _, _ in diary(file)}) == 2 and not (tmp_path / "study/trials").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_many_claims_at_once(tmp_path, kind):
    """Four workers without a pause: no trial twice, none too many."""
    url = url_of(kind, tmp_path)
    status, _, error = finish(start(tmp_path, storage=url, trials=40, workers=4, epochs=1, sampler="random"))
    assert status == 0, error
    assert states(Storage(url).optuna) == ["COMPLETE"] * 40
    trials = study(Storage(url).optuna).trials
    assert len({json.dumps(trial.params) for trial in trials}) == 40
    assert len({trial.user_attrs["process"]["pid"] for trial in trials}) == 4


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.slow), "journal"])
def test_a_full_disk_ends_in_a_sentence_and_the_search_goes_on(tmp_path, kind):
    """Files may not grow beyond what the storage has now and a little: what a full disk is to a program."""
    url, file, more = url_of(kind, tmp_path), tmp_path / f"trials.{kind}", {"diary": str(tmp_path / "diary")}
    search(tmp_path, more, storage=url, trials=2)
    study(Storage(url).optuna).set_user_attr("padding", "x" * 200_000)  # so that the storage is the largest file
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = file.stat().st_size + (0 if kind == "sqlite" else 1500)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(StorageError, match=f"The storage {url} failed .*: mend it, and go on with --resume"):
            search(tmp_path, more, storage=url, trials=60, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reached = len(tally(study(Storage(url).optuna)).finished)
    found = search(tmp_path, more, storage=url, trials=reached + 2, resume=True)
    assert found["budget"]["trials"] == reached + 2 and found["budget"]["failed"] == 0
    assert "RUNNING" not in states(Storage(url).optuna)
    check_continued(tmp_path / "diary")
