"""Downloads from servers that don't keep to what they said, or say nothing."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.downloads import download

CONTENT = b"weights!" * 1000


@contextlib.contextmanager
def server(length, blocks=1):
    """Context: the address of a server that states a length, or none, and sends the content some times."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(blocks):
                    self.wfile.write(CONTENT)
                    sent.append(len(CONTENT))

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/file", sent
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("length", [None, str(len(CONTENT))])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_with_and_without_a_length(tmp_path, length, size):
    with server(length) as (url, _):
        download(url, tmp_path / "file", size=size)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_than_was_expected_is_not_received(tmp_path):
    with server(None, blocks=20_000) as (url, sent):
        with pytest.raises(InputError, match=r"the downloaded file has \d+ bytes, expected 8000: it is trunc"):
            download(url, tmp_path / "file", size=len(CONTENT))
    assert sum(sent) < 100_000_000 and list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "file").mkdir()
    with server(None) as (url, sent):
        with pytest.raises(InputError, match="file: is a folder, where a file is to be downloaded. Remove it"):
            download(url, tmp_path / "file")
    assert not sent
