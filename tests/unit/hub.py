"""A stand-in for the Hugging Face hub: models in local folders, over HTTP, as its own client library reads them."""

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants


class Hub:
    """What there is on the hub; `serve` makes it reachable.

    Attributes
    ----------
    folders : dict
        (id, revision) to the folder of its files.
    token : str or None
        Who doesn't send it is refused, if it is there.
    requests : list of str
        The paths that were asked for, with their methods.
    """

    def __init__(self, folders, token=None):
        self.folders, self.token, self.requests = folders, token, []

    def commit(self, model, revision):
        """40 digits, as git's."""
        return hashlib.sha1(f"{model} {self.folders[model, revision]}".encode()).hexdigest()

    def answer(self, path, authorization):
        """Status, headers and body."""
        owner, name, _, revision, filename = path.strip("/").split("/", 4)
        model = f"{owner}/{name}"
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b""
        known = {self.commit(*key): key for key in self.folders if key[0] == model}
        key = known.get(revision, (model, revision))
        if not known:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if key not in self.folders:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Revision not found"}, b""
        headers = {"X-Repo-Commit": self.commit(*key)}
        file = self.folders[key] / filename
        if not file.is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        content = file.read_bytes()
        return 200, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextlib.contextmanager
def serve(hub, monkeypatch):
    """Context: huggingface_hub finds this hub in the place of the real one."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = respond  # noqa: N815, names that http.server looks for

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
