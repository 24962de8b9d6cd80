"""Worker processes on this machine: the same command with ``--join``, so that any other machine can run it too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

import recbole_persona
from recbole_persona.config import class_name
from recbole_persona.errors import UserError
from recbole_persona.upstream.files import write_text

_RESTARTS = 3  # of each worker that is killed
_PATIENCE = 30  # seconds for a worker to end well


class Workers:
    """The workers of a search; leaving the block ends them.

    Args:
        search: :class:`recbole_persona.search.study.Search`.
        url: of the storage.
        space: what ``tune`` was given.
        grace: seconds, see :class:`recbole_persona.search.storage.Storage`.
        options: further options of their command lines.
    """

    def __init__(self, search, url, space, grace, options):
        self._folder = Path(search.study_dir)
        self._arguments = _arguments(search, space, grace, options)
        self._processes, self._deadline, self._restarts = {}, None, 0
        self._environment = {**os.environ, "OPTUNA_STORAGE": url}  # a command line would show its password to everybody
        package = str(Path(recbole_persona.__file__).parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment["PYTHONPATH"] = os.pathsep.join(paths)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """Ctrl-C reaches the workers by themselves; any other end of the search must reach them."""
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.terminate()
        until = time.monotonic() + _PATIENCE
        for process in running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, number, deadline):
        """Start workers with an equal share of the cores, unless ``OMP_NUM_THREADS`` says otherwise."""
        self._deadline, self._restarts = deadline, _RESTARTS * number
        self._environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
        for name in range(1, number + 1):
            self._start(name)

    def _start(self, name):
        command = [sys.executable, "-m", "recbole_persona", "tune", *self._arguments]
        if self._deadline is not None:
            command.append(f"--timeout={max(0.0, self._deadline - time.monotonic()):.1f}")
        with open(self._log(name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def at_work(self) -> bool:
        """Whether a worker is left. One that was killed is started again.

        Raises:
            UserError: a worker ended with a fault; its last line.
            KeyboardInterrupt: a worker was interrupted.
        """
        for name, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self._processes[name]
            if status in (-signal.SIGINT, -signal.SIGTERM, 130):
                raise KeyboardInterrupt
            if status > 0:
                raise UserError(self._last_words(name, status))
            if status < 0:
                self._restarts -= 1
                if self._restarts < 0:
                    raise UserError(
                        f"Workers were killed again and again (the last by signal {-status}; 9 is often a lack of "
                        "memory); go on with fewer --workers and --resume."
                    )
                self._start(name)
        return bool(self._processes)

    def _log(self, name) -> Path:
        return self._folder / f"worker-{name}.log"

    def _last_words(self, name, status) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if status == 2 and lines and lines[-1].startswith("recbole-persona: "):
            return lines[-1].removeprefix("recbole-persona: ")
        return f"A worker ended with status {status}; what it said is in {self._log(name)}: go on with --resume."


def _arguments(search, space, grace, options) -> list[str]:
    """The command line of a worker; it finds the storage in its environment."""
    named = {"model": search.model, "dataset": search.dataset}
    if isinstance(search.model, type):
        named["model"] = class_name(search.model)
        if search.model.__module__ == "__main__":
            raise UserError("Workers cannot import a model of the running script; put its class into a module.")
    if space is not None and not isinstance(space, (str, os.PathLike)):
        file = Path(search.study_dir) / "space.yaml"
        write_text(file, yaml.safe_dump(search.space.plain(), sort_keys=False))
        space = file
    options = {
        **{name: value for name, value in named.items() if value is not None},
        **({"space": space} if space is not None else {}),
        "trials": search.trials,
        "study_name": search.study_name,
        "study_dir": search.study_dir,
        "sampler": search.sampler,
        "pruner": search.pruner,
        "objectives": ",".join(objective.name for objective in search.objectives),
        "grace": grace,
        **{name: ",".join(map(str, v)) if isinstance(v, list) else v for name, v in options.items()},
        **search.settings,
    }
    files = ["--config_files", *search.files] if search.files else []
    return ["--join", *(f"--{name}={value}" for name, value in options.items()), *files]
