"""The URL of a storage: read, checked, and shown without its password."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_plus

import sqlalchemy
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from recbole_persona.errors import UserError, hidden

_DRIVERS = {"postgresql": ("psycopg", "postgres"), "mysql": ("pymysql", "mysql")}  # dialect -> driver, extra
_FORMS = (
    "sqlite:///FILE, postgresql://USER@HOST/NAME, mysql://USER@HOST/NAME or journal:///FILE, "
    "with / ? @ and the like in a user name or a password percent-encoded (%2F %3F %40)"
)
_USER_AND_PASSWORD = re.compile(r"[\w+]+://(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@")  # as SQLAlchemy reads them
_SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)  # in the name of a connection parameter


@dataclass(frozen=True, repr=False)
class StorageURL:
    """What a storage's URL says.

    Attributes:
        parsed: SQLAlchemy's URL, with its driver; None for a journal.
        file: of SQLite or of the journal; None for a server.
        shown: the URL without its password and its query.
    """

    parsed: sqlalchemy.URL | None
    file: Path | None
    shown: str
    _secrets: tuple[str, ...] = field(default=())

    def hide(self, text: str) -> str:
        """A text of a driver, of SQLAlchemy or of Optuna, which may repeat the URL or its parts, without the secrets."""
        return hidden(text, self._secrets)


def read_url(url: str) -> StorageURL:
    """Read the URL of a storage.

    Raises:
        UserError: a URL that cannot be read, that names no file or a database other than the known ones, or whose driver is
            not installed. The sentence shows nothing of a URL that cannot be read but its scheme.
    """
    if url.startswith("journal:"):
        found = re.fullmatch(r"journal:///([^?]+)", url, re.DOTALL)
        if not found:
            raise UserError("This storage names no file; write journal:///FILE.")
        return StorageURL(None, Path(found[1]), url)
    try:
        url.encode()  # bytes of the environment that are no text cannot be percent-encoded
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        parsed = None  # ours is raised outside of this block: the text of its context may repeat the URL
    if parsed is None or not _is_clear(url, parsed):
        scheme = re.match(r"[\w+]+://", url)
        raise UserError(f"Cannot read the storage{f' {scheme[0]}***' if scheme else ''}; write {_FORMS}.")
    file = None
    if parsed.get_backend_name() == "sqlite":
        if parsed.host or parsed.username or parsed.database in (None, "", ":memory:"):
            raise UserError(f"The storage {_shown(url, parsed)} names no file; write {parsed.drivername}:///FILE.")
        file = Path(parsed.database)
    else:
        parsed = _with_driver(parsed)
    return StorageURL(parsed, file, _shown(url, parsed), tuple(_secrets(url, parsed)))


def _is_clear(url, parsed) -> bool:
    """Whether no part of a password can have come into another part: an @ that is not encoded ends it."""
    if parsed.get_backend_name() == "sqlite":
        return True
    name = _USER_AND_PASSWORD.match(url)
    rest = url[name.end() if name else url.index("://") :]
    if name and ("@" in rest or "?" in name[0] or re.search(r"[=;&\s]", name["user"])):
        return False
    return not re.search(r"[@=;&#\s]", rest.partition("?")[0])


def _shown(url, parsed) -> str:
    """The URL without its password; nothing of its query, where a password may stand, whole or in part, in any form."""
    shown = url.partition("?")[0]
    if parsed.get_backend_name() != "sqlite" or parsed.password is not None:
        shown = parsed.set(query={}).render_as_string(hide_password=True)
    return shown + ("?***" if "?" in url else "")


def _secrets(url, parsed):
    """The URL, its password and whatever else in it gives access, decoded and as written."""
    yield from (url, parsed.render_as_string(hide_password=False))
    name = _USER_AND_PASSWORD.match(url)
    yield from filter(None, (parsed.password, name and name["password"]))
    written = [parameter.partition("=") for parameter in url.partition("?")[2].split("&")]
    first = next((i for i, (key, *_) in enumerate(written) if _SECRET.search(unquote(key))), len(written))
    # what follows may be the rest of a password with an & that is not encoded
    parts = [value for _, _, value in written[first:]] + [key for key, *_ in written[first + 1 :]]
    yield from (form for part in parts for form in (part, unquote_plus(part)))


def _with_driver(url):
    """The URL with the driver that we name where the user names none; UserError when it is not installed."""
    dialect = "mysql" if url.get_backend_name() == "mariadb" else url.get_backend_name()
    if dialect not in _DRIVERS:
        raise UserError(f"A search cannot be kept in {dialect}; write {_FORMS}.")
    driver, extra = _DRIVERS[dialect]
    if "+" not in url.drivername:
        url = url.set(drivername=f"{dialect}+{driver}")
    try:
        url.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError):
        raise UserError(
            f"The driver of {url.drivername} is not installed: pip install recbole_persona[{extra}]."
        ) from None
    return url
