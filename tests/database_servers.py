"""Database servers for tests: on loopback, on a free port, their data in a folder of their own, not run by root.

``with PostgreSQL() as server``: a server that is up; ``server.url`` names its database. Servers refuse to be run by root, who
starts them as the user that the packages make for it; anybody else starts them as himself.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path


class _Server:
    user: str  # who runs it where root asks for it
    programs: tuple[str, ...]
    places: list[str]  # where they may lie, beside the PATH
    driver: str  # the module through which it is spoken to

    @classmethod
    def missing(cls) -> str | None:
        """What a server lacks here, as a sentence; None where there is all."""
        lacking = [name for name in cls.programs if cls._program(name) is None]
        if lacking:
            return f"{', '.join(lacking)} of {cls.__name__} cannot be found here."
        if os.geteuid() == 0:
            try:
                pwd.getpwnam(cls.user)
            except KeyError:
                return f"{cls.__name__} refuses to be run by root, and there is no user {cls.user}."
        return None

    @classmethod
    def _program(cls, name) -> str | None:
        return shutil.which(name) or shutil.which(name, path=os.pathsep.join(cls.places))

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="server-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user, self.user)
        self._make()
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)

    def _command(self, name, *arguments) -> list[str]:
        as_whom = ["runuser", "-u", self.user, "--"] if os.geteuid() == 0 else []
        return [*as_whom, self._program(name), *map(str, arguments)]

    def _call(self, name, *arguments, checked=True):
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.run(self._command(name, *arguments), cwd=self.folder, check=checked, **nothing)


class PostgreSQL(_Server):
    user, programs, driver = "postgres", ("initdb", "pg_ctl"), "psycopg"
    places = ["/usr/local/bin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]

    @property
    def url(self) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def _make(self):
        self._call("initdb", "-D", self.folder / "data", "--auth=trust", "--username=tester", "--no-sync")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories={self.folder} -c fsync=off"
        arguments = ("-D", self.folder / "data", "--wait", "--log", self.folder / "log", "-o", options, "start")
        self._call("pg_ctl", *arguments)

    def stop(self) -> None:
        """As in a power cut, but for the data."""
        self._call("pg_ctl", "-D", self.folder / "data", "--wait", "--mode=immediate", "stop", checked=False)


class MariaDB(_Server):
    """Speaks MySQL's protocol and dialect."""

    user, programs, driver = "mysql", ("mariadbd", "mariadb-install-db", "mariadb-admin"), "pymysql"
    places = ["/usr/local/bin", "/usr/sbin", "/usr/local/sbin"]

    @property
    def url(self) -> str:
        return f"mysql://tester@127.0.0.1:{self.port}/studies"

    def _make(self):
        self._call("mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db")
        (self.folder / "first.sql").write_text(
            "CREATE DATABASE studies;\nCREATE USER tester@'127.0.0.1';\nGRANT ALL ON studies.* TO tester@'127.0.0.1';\n"
        )
        os.chmod(self.folder / "first.sql", 0o644)

    def start(self) -> None:
        once = self.folder / "first.sql"
        options = [f"--datadir={self.folder}/data", f"--socket={self.folder}/socket", f"--port={self.port}"]
        options += ["--bind-address=127.0.0.1", "--skip-name-resolve", f"--pid-file={self.folder}/pid"]
        options += [f"--init-file={once}"] if once.exists() else []
        with open(self.folder / "log", "ab") as log:
            command = self._command("mariadbd", "--no-defaults", *options)
            self._process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            asked = self._command("mariadb-admin", "--no-defaults", f"--socket={self.folder}/socket", "ping")
            if subprocess.run(asked, capture_output=True).returncode == 0:
                break
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.1)
        once.unlink(missing_ok=True)

    def stop(self) -> None:
        """As in a power cut, but for the data."""
        try:
            os.kill(int((self.folder / "pid").read_text()), 9)
        except (OSError, ValueError):
            pass  # it is down
        self._process.wait()
