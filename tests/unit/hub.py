"""A stand-in for the Hugging Face hub: models in local folders, over HTTP, as its own client library reads and writes.

What is uploaded comes within the commit ("regular"), which the hub has for small files.
"""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants, file_download


class Hub:
    """The content of the hub; `serve` makes it reachable.

    Attributes
    ----------
    folders : dict
        (id, revision) to the folder of its files.
    token : str or None
        Who doesn't send it is refused, if it is there.
    requests : list of str
        The paths that were asked for, with their methods.
    root : Path or None
        Where models that are created get their folders.
    """

    def __init__(self, folders, token=None, root=None):
        self.folders, self.token, self.requests, self.root = folders, token, [], root

    def commit(self, model, revision):
        """40 digits, as git's."""
        return hashlib.sha1(f"{model} {self.folders[model, revision]}".encode()).hexdigest()

    def answer(self, path, authorization):
        """Status, headers and body."""
        parts = path.partition("?")[0].strip("/").split("/", 4)
        if parts[:2] == ["api", "models"]:  # asked before a push by versions before 1
            return 200, {}, json.dumps({"id": "/".join(parts[2:4]), "xetEnabled": False}).encode()
        owner, name, _, revision, filename = parts
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

    def receive(self, path, authorization, body):
        """The answer to a POST: status and JSON."""
        if authorization != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        kind, *parts = path.partition("?")[0].removeprefix("/api/").split("/")
        if kind == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if kind == "repos":
            request = json.loads(body)
            model = f"{request.get('organization') or 'me'}/{request['name']}"
            if (model, "main") not in self.folders:
                self.folders[model, "main"] = self.root / model
                (self.root / model).mkdir(parents=True)
            return 200, {"url": f"{constants.ENDPOINT}/{model}", "name": model}
        owner, name, what, revision = parts
        folder = self.folders[f"{owner}/{name}", revision]
        if what == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return 200, {"files": [{**file, "shouldIgnore": False} for file in files]}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                (folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self.commit(f"{owner}/{name}", revision)
        return 200, {"commitUrl": f"{constants.ENDPOINT}/{owner}/{name}/commit/{commit}", "commitOid": commit}


@contextlib.contextmanager
def serve(hub, monkeypatch):
    """Context: huggingface_hub uses this hub instead of the real one."""

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

        def receive(self):
            hub.requests.append(f"{self.command} {self.path}")
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = hub.receive(self.path, self.headers.get("Authorization"), content)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = respond  # noqa: N815, names that http.server looks for
        do_POST = receive  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    point_to(endpoint, monkeypatch)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(endpoint, monkeypatch):
    """In this process, the hub has this address."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # before version 1 the second has a copy of its own
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
