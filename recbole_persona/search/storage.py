"""Where the trials of a search are kept: by URL, shared by many processes, put in order after a kill.

``sqlite:///study.db`` (a file), ``postgresql://…`` and ``mysql://…`` (a server, for many machines) and
``journal:///study.log`` (a file to which lines are appended). A process claims the study while it decides whether there
is a trial left to do and begins it; so no trial is begun twice, and their number is exact. A trial whose process has
died is failed, and its settings wait for whoever claims next.
"""

import os
import socket
import warnings
from contextlib import contextmanager

import optuna
import psutil
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState
from sqlalchemy.exc import PendingRollbackError, SQLAlchemyError

from recbole_persona.errors import StorageError, UserError, one_sentence
from recbole_persona.search.storage_url import read_url

GRACE = 120  # seconds without a heartbeat after which a trial on another machine counts as killed
RETRIES = 3  # of a trial that was killed
_CLAIM = "claim"  # the study's attribute whose row is locked

_FAULTS = (StorageInternalError, SQLAlchemyError, OSError)

# 5.x renamed the class; the old name goes away in 6.0
_Retry = getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None) or optuna.storages.RetryFailedTrialCallback


class Storage:
    """A storage of Optuna's with what a search needs around it.

    Args:
        url: where the trials are; relative files as SQLAlchemy has them (three slashes; four begin an absolute path).
        grace: seconds without a heartbeat after which a trial counts as killed.

    Attributes:
        shown: the URL without its password and its query.
        optuna: what Optuna takes for ``storage=``.

    Raises:
        UserError: a URL that cannot be read, a missing driver, a file that is damaged, tables of another Optuna.
        StorageError: a database that cannot be reached, a file that cannot be written.
    """

    def __init__(self, url: str, grace: float = GRACE):
        self._url = read_url(url)
        self.shown, self._file = self._url.shown, self._url.file
        try:
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            self.optuna = _database(self._url, grace) if self._url.parsed is not None else _journal(self._file)
        except UserError:
            raise
        except Exception as error:  # a driver may refuse an argument with any error; its text may repeat a password
            raise self._failed(error) from None
        self._engine = None if self._file else self.optuna.engine

    @contextmanager
    def plainly(self):
        """Whatever the storage fails with inside is one sentence."""
        try:
            yield
        except (*_FAULTS, AssertionError, UnboundLocalError) as error:
            fault = error  # where a storage fails as a trial ends, Optuna stumbles over it
            while fault is not None and not isinstance(fault, _FAULTS):
                fault = fault.__cause__ or fault.__context__
            if fault is None:
                raise
            raise self._failed(fault) from None  # a traceback would show the texts of the errors before it, too

    def _failed(self, fault) -> StorageError:
        return StorageError(
            f"The storage {self.shown} failed ({_reason(fault, self._url.hide)}); trials that had finished are kept in it: "
            "mend it, and go on with --resume."
        )

    @contextmanager
    def claim(self, study):
        """Hold the study: one process at a time, over all machines. The claim dies with its process."""
        if self._file:
            with FileLock(f"{self._file}.claim"):
                yield
            return
        table = sqlalchemy.table("study_user_attributes", *map(sqlalchemy.column, ("study_id", "key", "value_json")))
        number = self.optuna.get_study_id_from_name(study.study_name)
        row = sqlalchemy.select(table).where(table.c.study_id == number, table.c.key == _CLAIM).with_for_update()
        with self._engine.connect() as connection:
            connection.execute(row)
            yield

    def prepare(self, study) -> None:
        """Make the row that :meth:`claim` locks; two processes may do so at once."""
        if _CLAIM not in study.user_attrs:
            study.set_user_attr(_CLAIM, "one process at a time begins a trial")

    def begun(self, trial) -> None:
        """Say whose a trial is that has just begun; the study is claimed."""
        trial.set_user_attr("process", this_process())
        if isinstance(self.optuna, RDBStorage):
            self.optuna.record_heartbeat(trial._trial_id)  # at once: without one, it could never grow stale

    def reap(self, study) -> None:
        """Fail the trials whose process has died, and let those be tried again; the study is claimed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _has_died(trial.user_attrs.get("process")):
                    self.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            trials = study.get_trials(deepcopy=False)
            again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
            for trial in trials:
                if was_killed(trial) and trial.number not in again:
                    _Retry(max_retry=RETRIES, inherit_intermediate_values=True)(study, trial)

    def watches(self, trial) -> bool:
        """Whether this process would learn that the trial's process has died."""
        return isinstance(self.optuna, RDBStorage) or (trial.user_attrs.get("process") or {}).get("host") == _host()


def this_process() -> dict:
    """What tells this process from every other one: host, number, and when it began (seconds)."""
    return {"host": _host(), "pid": os.getpid(), "start": psutil.Process().create_time()}


def why_failed(trial) -> str | None:
    """Why a trial failed for good; None where it did not fail, or was killed and can be tried again."""
    if trial.state != TrialState.FAIL:
        return None
    if trial.user_attrs.get("reason"):
        return trial.user_attrs["reason"]
    attempts = len(trial.system_attrs.get("retry_history", [])) + 1
    return f"its process was killed {attempts} times" if attempts > RETRIES else None


def was_killed(trial) -> bool:
    """Whether a trial's process ended in its midst; it does not count, the one that tries again does."""
    return trial.state == TrialState.FAIL and why_failed(trial) is None


def _reason(fault, hide) -> str:
    """The first line of what the driver or the system says, without secrets."""
    if isinstance(fault, StorageInternalError) and fault.__cause__:
        fault = fault.__cause__  # the database's own error
    if isinstance(fault, PendingRollbackError) or getattr(fault, "connection_invalidated", False):
        return "the connection was lost"  # what SQLAlchemy says is of its transactions
    text = hide(str(getattr(fault, "orig", None) or getattr(fault, "strerror", None) or fault)).strip()
    return text.splitlines()[0].strip(" .") if text else type(fault).__name__


def _host() -> str:
    return socket.gethostname()


def _has_died(process: dict | None) -> bool:
    """Whether no trial can be running in this process: asked by the one process that may begin trials now."""
    if process is None or process == this_process():
        return True
    if process["host"] != _host():
        return False
    try:
        found = psutil.Process(process["pid"])
        return abs(found.create_time() - process["start"]) > 2 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class _Database(RDBStorage):
    def record_heartbeat(self, trial_id):
        try:
            super().record_heartbeat(trial_id)
        except StorageInternalError:
            pass  # in a thread of Optuna's: the trial's next report says what is wrong; one heartbeat may be missing


def _database(url, grace) -> RDBStorage:
    arguments = {"connect_args": {"timeout": 60}} if url.file else {"pool_pre_ping": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return _Database(
                url.parsed.render_as_string(hide_password=False),
                engine_kwargs=arguments,
                heartbeat_interval=max(1, int(grace // 4)),
                grace_period=max(1, int(grace)),
            )
        except RuntimeError as error:  # Optuna's check of its tables
            raise UserError(
                f"The tables of this storage are of another Optuna: {url.hide(one_sentence(error))}"
            ) from None


class _TailLock(JournalFileSymlinkLock):
    """Optuna's lock of a journal. Whoever takes it cuts off the line that a killed writer left unfinished."""

    def __init__(self, path: str):
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        try:
            _cut_unfinished_line(self._path)
        except BaseException:
            self.release()
            raise
        return True


def _cut_unfinished_line(path) -> None:
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        if not size or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _journal(path) -> JournalStorage:
    path.touch()
    lock = _TailLock(str(path))
    lock.acquire()  # cuts the tail before anything is read
    lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a journal ({one_sentence(error)[:-1]}); it was damaged or is another file: "
            "put a copy in its place, or name another --storage."
        ) from None
