"""What must not leave the machine, or be written over: the judge's key, devices named as output."""

import http.server
import json
import threading
import traceback
from contextlib import contextmanager

import pytest

from recbole_persona.cli import main
from recbole_persona.config import Config
from recbole_persona.errors import UserError
from recbole_persona.evaluate.judge import judged
from recbole_persona.settings import JUDGE_KEY
from recbole_persona.upstream.files import write_text


@contextmanager
def server(answer):
    """A server on this machine; ``answer`` gives (status, headers) for a handler. Yields its address and the headers it got."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(dict(self.headers))
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = answer()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status == 200:
                self.wfile.write(json.dumps({"choices": [{"message": {"content": "7"}}]}).encode())

        do_GET = do_POST

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1", seen
    finally:
        running.shutdown()
        thread.join()


def test_the_judges_key_is_not_sent_on(monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, "hidden-key")
    with server(lambda: (200, {})) as (other, stolen), server(lambda: (302, {"Location": other})) as (url, asked):
        assert judged(other, "judge", ["a"], ["b"]).tolist() == [7.0]
        assert stolen.pop()["Authorization"] == "Bearer hidden-key"
        with pytest.raises(UserError, match="redirects to another address"):
            judged(url, "judge", ["a"], ["b"])
        assert asked and not stolen


def test_a_proxy_that_could_read_the_key_is_not_asked(monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, "hidden-key")
    with server(lambda: (200, {})) as (proxy, stolen), server(lambda: (200, {})) as (url, asked):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        assert judged(url, "judge", ["a"], ["b"]).tolist() == [7.0]
        assert asked and not stolen


@pytest.mark.parametrize("status", [401, 0])
def test_no_message_shows_the_key(monkeypatch, status):
    """Also where the server repeats it in its status line; 0 is no status of HTTP."""
    monkeypatch.setenv(JUDGE_KEY, "hidden-key")
    monkeypatch.setitem(http.server.BaseHTTPRequestHandler.responses, status, ("hidden-key is wrong", ""))
    with server(lambda: (status, {})) as (url, _), pytest.raises(UserError, match="judge_url") as refused:
        judged(url, "judge", ["a"], ["b"])
    assert "hidden-key" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("key", ["hidden\nkey", "hidden key", "h\u00efdden\nhidden"])
def test_a_key_that_no_header_can_carry(monkeypatch, key):
    monkeypatch.setenv(JUDGE_KEY, key)
    with pytest.raises(UserError, match=f"The key in {JUDGE_KEY} has blanks, line ends or letters") as refused:
        judged("http://127.0.0.1:1/v1", "judge", ["a"], ["b"])
    assert "hidden" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hidden@127.0.0.1:1/v1",
        "http://hidden@127.0.0.1:1/v1",
        "http://me:a/hidden@127.0.0.1:1/v1",
        "http://me:1/hidden@127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1?api_key=hidden",
        "http://127.0.0.1:1/v1#hidden",
        "http://127.0.0.1:hidden/v1",
        "http:/me:hidden@127.0.0.1:1/v1",
        "http://[hidden/v1",
        "me:hidden@127.0.0.1:1/v1",
        "127.0.0.1:1/hidden",
        "file:///hidden",
        ["http://hidden"],
    ],
)
def test_a_judges_address_with_a_secret_is_refused(url, tmp_path, monkeypatch, capfd):
    """Before anything is written: settings stand in config.yaml, in train.log and on the screen."""
    monkeypatch.chdir(tmp_path)
    for call in (lambda: judged(url, "m", ["a"], ["b"]), lambda: Config("Pop", "ml-100k", None, {"judge_url": url})):
        with pytest.raises(UserError, match=f"without user name, password and query; .* {JUDGE_KEY}") as refused:
            call()
        assert "hidden" not in "".join(traceback.format_exception(refused.value))
    assert main(["run", "--model=Pop", "--dataset=ml-100k", f"--judge_url={url}"]) == 2
    assert "hidden" not in "".join(capfd.readouterr()) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/dev/null", "folder"])
def test_what_is_no_file_is_not_written_over(path, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        write_text(tmp_path / path, "text")
    assert (tmp_path / "folder").is_dir()
