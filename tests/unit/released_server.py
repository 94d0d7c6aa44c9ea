"""Stand-ins for the model hubs, over HTTP on this machine, and small models instead of the released ones."""

import contextlib
import dataclasses
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import torch
from huggingface_hub import constants
from speechbrain.lobes.models.dual_path import Decoder, Encoder

from mossformer_sb import MossFormer2MaskNet, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.sharing import released
from mossformer_sb.sharing.authors_files import MAPPING_TASK, MODELSCOPE_PREFIXES, to_standalone
from mossformer_sb.sharing.conversion import in_modelscope_names
from mossformer_sb.sharing.folder import MODULES
from tests.unit.hub import point_to

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"channels": 32, "num_blocks": 1}


def small_models(**changes):
    """The released models, with small networks, and without the sizes and sums of the real files."""
    small = {**SMALL, "sizes": {}, "sha256": {}, **changes}
    return {name: dataclasses.replace(model, **small) for name, model in released.RELEASED.items()}


def small_states(model):
    """State dicts of a network with random weights, as the authors' package names them."""
    torch.manual_seed(0)
    width = model.channels
    sizes = {"in_channels": width, "out_channels": width, "num_blocks": model.num_blocks, "num_spks": model.num_spks}
    if model.network == "MossFormer2":
        masknet = MossFormer2MaskNet(**sizes, apply_masks=model.apply_masks)
    else:
        masknet = MossFormerMaskNet(**sizes)
    decoder = Decoder(in_channels=width, out_channels=1, kernel_size=16, stride=8, bias=False)
    separator = MossFormerSeparator.from_modules(Encoder(16, width), masknet, decoder)
    return {name: in_modelscope_names(name, module.state_dict()) for name, module in separator.named_children()}


def write_files(model, states, folder):
    """The files of a released model, in its form."""
    folder.mkdir(parents=True)
    whole = {
        prefix + key: value
        for name, prefix in zip(MODULES, MODELSCOPE_PREFIXES, strict=True)
        for key, value in states[name].items()
    }
    if "pytorch_model.pt" in model.files:
        torch.save(whole, folder / "pytorch_model.pt")
    elif "last_best_checkpoint" in model.files:
        torch.save({"model": whole, "epoch": 59, "optimizer": {"state": {}}}, folder / "last_best_checkpoint.pt")
        (folder / "last_best_checkpoint").write_text("last_best_checkpoint.pt\n")
    else:
        is_standalone = "config.json" in model.files
        for name, state in states.items():
            if is_standalone and name == "masknet":
                state = {to_standalone(key): value for key, value in state.items()}
            torch.save(state, folder / f"{name}.{'ckpt' if is_standalone else 'bin'}")
        if is_standalone:
            task = model.hub_id.split("/")[1]
            assert (task == MAPPING_TASK) is not model.apply_masks
            (folder / "config.json").write_text(json.dumps({"config_name": task, "sample_rate": model.sample_rate}))
    return folder


class Hubs:
    """Both hubs.

    Attributes
    ----------
    folders : dict
        A model's id to the folder of its files.
    requests : list of tuple
        Method, the file's name, and the first byte that was asked for.
    breaks_after : int or None
        Bytes after which each connection breaks.
    pause : float
        Seconds between blocks of 64 kB.
    """

    def __init__(self, folders):
        self.folders, self.requests, self.breaks_after, self.pause = folders, [], None, 0.0

    def find(self, path):
        """The file that an address means."""
        parts = urlsplit(path)
        modelscope = re.fullmatch(r"/api/v1/models/(.+)/repo", parts.path)
        if modelscope:
            query = parse_qs(parts.query)
            assert query["Revision"] == ["master"]
            return self.folders.get(modelscope[1]), query["FilePath"][0]
        hub_id, _, rest = parts.path.strip("/").partition("/resolve/")
        return self.folders.get(hub_id), rest.partition("/")[2]

    def got(self, name):
        """First bytes of the requests for a file's content."""
        return [start for method, file, start in self.requests if (method, file) == ("GET", name)]


class Handler(BaseHTTPRequestHandler):
    hubs = None

    def respond(self):
        folder, name = self.hubs.find(self.path)
        path = folder / name if folder else None
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.hubs.requests.append((self.command, name, start))
        if path is None or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        # As on the hub, the tag is the sha256 for large files alone.
        etag = f'"{digest if len(content) > 1000 else digest[:40]}"'
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(ConnectionError):  # who asked may be gone
                self.send(content[start:])

    def send(self, content):
        limit = self.hubs.breaks_after
        for first in range(0, len(content), 1 << 16):
            block = content[first : first + (1 << 16)]
            if limit is not None and first + len(block) > limit:
                self.wfile.write(block[: max(0, limit - first)])
                self.connection.close()
                return
            self.wfile.write(block)
            time.sleep(self.hubs.pause)

    do_GET = do_HEAD = respond  # noqa: N815, names that http.server looks for

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(hubs):
    """Context: the address at which the hubs are."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hubs": hubs}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch, tmp_path, endpoint, models):
    """In this process: the hubs are at an address, and models are others; nothing is kept outside of a folder."""
    point_to(endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint)
    monkeypatch.setenv("MOSSFORMER_SB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mossformer_sb.sharing.released.RELEASED", models)
    monkeypatch.setattr("mossformer_sb.sharing.released_cache.RELEASED", models)
