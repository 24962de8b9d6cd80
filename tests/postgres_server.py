"""A PostgreSQL server for tests: on loopback, on a free port, its data in a folder of its own, run by the user postgres.

The server refuses to be run by root; root starts it as postgres, anybody else as himself.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

PLACES = ["/usr/local/bin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]


def missing() -> str | None:
    """What a server lacks here, as a sentence; None where there is all."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "There are no PostgreSQL binaries (initdb, pg_ctl) here."
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses to be run by root, and there is no user postgres."
    return None


def _program(name) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(PLACES))


class Server:
    """``with Server() as server``: a server that is up; ``server.url`` names its database."""

    def __enter__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._call("initdb", "--auth=trust", "--username=tester", "--no-sync")
        self.start()
        self.url = f"postgresql://tester@127.0.0.1:{self._port}/postgres"
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -c unix_socket_directories={self._folder} -c fsync=off"
        self._call("pg_ctl", "--wait", "--log", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """As in a power cut, but for the data."""
        self._call("pg_ctl", "--wait", "--mode=immediate", "stop", checked=False)

    def _call(self, name, *arguments, checked=True):
        as_whom = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*as_whom, _program(name), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(
            command, cwd=self._folder, check=checked, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )  # fmt: skip
