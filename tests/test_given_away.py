"""What must not leave the machine, or be written over: the judge's key, devices named as output."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest

from recbole_persona.errors import UserError
from recbole_persona.evaluate.judge import KEY, judged
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
    monkeypatch.setenv(KEY, "hidden-key")
    with server(lambda: (200, {})) as (other, stolen), server(lambda: (302, {"Location": other})) as (url, asked):
        assert judged(other, "judge", ["a"], ["b"]).tolist() == [7.0]
        assert stolen.pop()["Authorization"] == "Bearer hidden-key"
        with pytest.raises(UserError, match="redirects to another address"):
            judged(url, "judge", ["a"], ["b"])
        assert asked and not stolen


def test_no_message_shows_the_key_or_a_password(monkeypatch):
    monkeypatch.setenv(KEY, "hidden\nkey")  # which no header can carry
    with pytest.raises(UserError) as refused:
        judged("http://me:secret@127.0.0.1:1/v1?token=secret", "judge", ["a"], ["b"])
    assert "hidden" not in str(refused.value) and "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("path", ["/dev/null", "folder"])
def test_what_is_no_file_is_not_written_over(path, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        write_text(tmp_path / path, "text")
    assert (tmp_path / "folder").is_dir()
