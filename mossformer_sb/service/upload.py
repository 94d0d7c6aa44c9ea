"""Receiving a recording, as the body or a form field, into a file, with limits during the upload."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from mossformer_sb.inference.serving import duration

if TYPE_CHECKING:
    from starlette.requests import Request

    from mossformer_sb.inference.serving import Limits

FIELD = "file"
COPIED = 1 << 16  # bytes per copy
LONGEST_NAME = 60  # characters


async def receive(request: Request, folder: Path, limits: Limits) -> tuple[Path, str]:
    """Write the recording of a request into a folder.

    Arguments
    ---------
    request : starlette.requests.Request
        Request whose body is an audio file; or a form, ``multipart/form-data``, with the audio file as field ``file``.
    folder : Path
        Folder for the recording.
    limits : Limits

    Returns
    -------
    path : Path
        The file.
    name : str
        The client's name for it, from the parameter ``name`` or the form's file name, sanitised; or "recording".

    Raises
    ------
    HTTPException
        408, 411, 413 or 400: too slow, empty, too large, or an unreadable form.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.bytes:
        raise _too_large(limits)
    path = folder / "recording"
    chunks = _limited(request, limits)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        name = await _from_form(request, chunks, path)
    else:
        name = ""
        with open(path, "wb") as file:
            async for chunk in chunks:
                file.write(chunk)
    if not path.stat().st_size:
        raise HTTPException(400, "the request has no body: send an audio file, or a form with it as the field 'file'.")
    return path, safe_name(request.query_params.get("name") or Path(name.replace("\\", "/")).stem)


def safe_name(name: str) -> str:
    """A client's name as a file name: without folders and control characters, and shortened.

    Example
    -------
    >>> safe_name("../a/b"), safe_name("Ünï 絆"), safe_name("..")
    ('_a_b', 'Ünï 絆', 'recording')
    """
    return re.sub(r"[^\w .()+-]", "_", name)[:LONGEST_NAME].strip(". ") or "recording"


async def _limited(request, limits):
    """The chunks of the body; raises HTTPException if they are too slow or too large."""
    received, stream = 0, request.stream()
    clock = asyncio.get_running_loop().time
    end = clock() + 60 * limits.upload_minutes
    while True:
        left = end - clock()
        try:
            chunk = await asyncio.wait_for(anext(stream, None), min(limits.upload_seconds, left))
        except asyncio.TimeoutError as error:
            reason = f"nothing was received for {limits.upload_seconds:g} s"
            if left <= limits.upload_seconds:
                reason = f"the upload took more than {duration(60 * limits.upload_minutes)}, the maximum"
            raise HTTPException(408, f"{reason}: send it again.") from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limits.bytes:
            raise _too_large(limits)
        yield chunk


async def _from_form(request, chunks, path):
    """Write the field `FIELD` to ``path``, and return its file name."""
    try:
        form = await MultiPartParser(request.headers, chunks, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError) as error:
        message = getattr(error, "message", error)
        raise HTTPException(400, f"the form can't be read ({message}). Send one file, as the field 'file'.") from error
    try:
        upload = form.get(FIELD)
        if upload is None or isinstance(upload, str):
            raise HTTPException(400, "the form has no file field named 'file': send the recording as this field.")
        with open(path, "wb") as file:
            while chunk := await upload.read(COPIED):
                file.write(chunk)
        return upload.filename or ""
    finally:
        await form.close()


def _too_large(limits):
    return HTTPException(413, f"the request is larger than {limits.megabytes:g} MB, the maximum.")


__all__ = ["ClientDisconnect", "receive"]
