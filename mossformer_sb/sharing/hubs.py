"""Locating files on the model hubs of Hugging Face and ModelScope, with their size and hash."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import huggingface_hub
from huggingface_hub import constants

from mossformer_sb.errors import InputError
from mossformer_sb.sharing.released import HUGGING_FACE

ENDPOINT_VARIABLE = "MODELSCOPE_ENDPOINT"  # also read by the package `modelscope`
MODELSCOPE_ENDPOINT = "https://www.modelscope.cn"
MODELSCOPE_REVISION = "master"
TIMEOUT = 10  # seconds for the hub's answer
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Place:
    """Location of a file: ``cached``, a copy on this machine, or ``url``.

    ``sha256`` and ``size`` are stated by the hub; ``revision`` must be that of the model's other files.
    """

    url: str
    revision: str | None = None
    cached: Path | None = None
    headers: dict = field(default_factory=dict)
    size: int | None = None
    sha256: str | None = None


def locate(hub: str, hub_id: str, file: str, revision: str | None = None) -> Place:
    """Find a file on a hub.

    Arguments
    ---------
    hub : str
        Name of a hub, as in `mossformer_sb.sharing.released`.
    hub_id, file : str
        The model's id, and the name of a file in it.
    revision : str, optional
        Revision of the model. Default: the newest.

    Returns
    -------
    Place

    Raises
    ------
    InputError
        If the hub does not have the file or can't be reached, or ``HF_HUB_OFFLINE`` is set, which applies to both hubs.
    """
    find = _on_hugging_face if hub == HUGGING_FACE else _on_modelscope
    return find(hub_id, file, revision)


def web_page(hub: str, hub_id: str) -> str:
    """The web page of a model.

    Example
    -------
    >>> web_page("ModelScope", "damo/a_model")
    'https://www.modelscope.cn/models/damo/a_model'
    """
    return f"{constants.ENDPOINT}/{hub_id}" if hub == HUGGING_FACE else f"{_modelscope_endpoint()}/models/{hub_id}"


def _on_hugging_face(hub_id, file, revision):
    cached = huggingface_hub.try_to_load_from_cache(hub_id, file, revision=revision)
    if isinstance(cached, str):
        return Place("", Path(cached).parent.name, Path(cached))
    url = huggingface_hub.hf_hub_url(hub_id, file, revision=revision)
    _check_online(url)
    try:
        facts = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except Exception as error:  # its HTTP client's exceptions have no common base with those of requests
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{url}: can't be reached ({reason}).") from error
    revision = facts.commit_hash or revision
    # The ETag of files in Git LFS is the sha256, of other files git's blob ID.
    sha256 = facts.etag if _SHA256.fullmatch(facts.etag or "") else None
    headers = huggingface_hub.utils.build_hf_headers()
    url = huggingface_hub.hf_hub_url(hub_id, file, revision=revision)
    return Place(url, revision, headers=headers, size=facts.size, sha256=sha256)


def _on_modelscope(hub_id, file, revision):
    revision = revision or MODELSCOPE_REVISION
    query = f"Revision={quote_plus(revision)}&FilePath={quote_plus(file)}"
    url = f"{_modelscope_endpoint()}/api/v1/models/{quote(hub_id)}/repo?{query}"
    _check_online(url)
    return Place(url, revision)


def _modelscope_endpoint():
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "").strip().rstrip("/") or MODELSCOPE_ENDPOINT
    return endpoint if "://" in endpoint else f"https://{endpoint}"


def _check_online(url):
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{url}: can't be downloaded, since HF_HUB_OFFLINE is set.")
