"""Downloading a file over HTTPS: resumed after an interruption, verified, and written atomically."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from tqdm import tqdm

from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # after a broken connection
TIMEOUT = 20  # seconds without a byte
BLOCK = 1 << 14  # bytes; an incomplete one is discarded when the connection breaks
PART, NOTE = ".part", ".part.json"  # the partial download, and the version of its file
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(
    url: str, path: str | Path, headers: Mapping | None = None, size: int | None = None, sha256: str | None = None
) -> None:
    """Download a file, or resume its download.

    Arguments
    ---------
    url : str
    path : str or Path
        File to write, in an existing folder. The partial download is in the same folder, and an interrupted download
        resumes from it.
    headers : mapping, optional
        Headers of the request, such as a token. They are not sent to another host after a redirect.
    size : int, optional
        Expected size in bytes. Default: the server's content length.
    sha256 : str, optional
        Expected hash of its content, in hexadecimal digits.

    Raises
    ------
    InputError
        If it can't be downloaded, or its size or hash is wrong.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, where a file is to be downloaded. Remove it.")
    part = path.with_name(path.name + PART)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(url, part, headers, path.name, size)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            come = part.stat().st_size if part.is_file() else 0
            if attempt == ATTEMPTS or not come:
                kept = f" {_megabytes(come)} MB of it are kept: the same command resumes from there." if come else ""
                raise InputError(f"{url}: can't be downloaded ({_reason(error)}).{kept}") from error
            logger.info("%s: the connection failed after %s MB; resuming", path.name, _megabytes(come))
        except requests.RequestException as error:
            raise InputError(f"{url}: can't be downloaded ({_reason(error)}).") from error
        except OSError as error:
            raise InputError(f"{part}: can't be written ({error.strerror or error}).") from error
    problem = difference(part, size, sha256)
    part.with_name(path.name + NOTE).unlink(missing_ok=True)
    if problem:
        part.unlink()
        raise InputError(f"{url}: the downloaded file {problem}. It was removed; try again.")
    os.replace(part, path)


def difference(path: Path, size: int | None = None, sha256: str | None = None) -> str:
    """The difference of a file from the expected size or content.

    Arguments
    ---------
    path : Path
    size : int, optional
        Expected size in bytes.
    sha256 : str, optional
        Expected hash of its content, in hexadecimal digits.

    Returns
    -------
    str
        Description of the difference, empty if there is none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "weights.pt"
    >>> _ = path.write_bytes(b"abc")
    >>> difference(path, size=4), difference(path, size=3)
    ('has 3 bytes, expected 4: it is truncated, or another version', '')
    """
    found = path.stat().st_size
    if size is not None and found != size:
        return f"has {found} bytes, expected {size}: it is truncated, or another version"
    digest = None if sha256 is None else file_sha256(path)
    if digest is not None and digest != sha256.lower():
        return f"has the sha256 {digest}, expected {sha256.lower()}: it is damaged, or another version"
    return ""


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's content, in hexadecimal digits.

    Example
    -------
    >>> path = getfixture("tmp_path") / "empty"
    >>> path.touch()
    >>> file_sha256(path)[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _receive(url, part, headers, name, size):
    """Append the missing rest of the file to ``part``; start again if the server has another version of it."""
    start, etag = _downloaded(part)
    request = {**(headers or {}), "Accept-Encoding": "identity"}
    if start:
        request |= {"Range": f"bytes={start}-", "If-Range": etag}
    with requests.get(url, headers=request, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # already complete, or another version: start again
            return _receive(url, part, headers, name, size)
        response.raise_for_status()
        sent = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        start = start if response.status_code == requests.codes.partial_content and sent else 0
        if start and int(sent[1]) != start:
            raise requests.RequestException(f"the server sent bytes from {sent[1]}, not from {start}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdecimal() else None
        if None not in (size, total) and total != size:  # before the download, which can take an hour
            raise InputError(f"{url}: has {total} bytes, expected {size}: it is truncated, or another version.")
        _note(part, response.headers.get("ETag"))
        with open(part, "ab" if start else "wb") as file, _bar(name, total, start) as bar:
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
                if size is not None and file.tell() > size:  # not until the disk is full
                    break
    found = part.stat().st_size
    if total is not None and found < total:
        raise requests.ConnectionError(f"{found} of {total} bytes were received")


def _downloaded(part):
    """Number of bytes that are already downloaded, and the version of their file."""
    note = part.with_name(part.name.removesuffix(PART) + NOTE)
    try:
        etag = json.loads(note.read_text(encoding="utf-8"))["etag"]
        return (part.stat().st_size, etag) if isinstance(etag, str) else (0, None)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _note(part, etag):
    """Store the version of the file. Without a strong ETag, a download can't be resumed."""
    note = part.with_name(part.name.removesuffix(PART) + NOTE)
    note.write_text(json.dumps({"etag": etag if etag and not etag.startswith("W/") else None}), encoding="utf-8")


def _bar(name, total, start):
    return tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, leave=False, disable=None)


def _megabytes(size):
    return f"{size / 1e6:.1f}"


def _reason(error):
    """The innermost cause, which is the most informative one."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    return str(error).strip().partition("\n")[0] or type(error).__name__
