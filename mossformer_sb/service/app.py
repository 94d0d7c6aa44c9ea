"""The HTTP service: an endpoint for separation, and a health check.

A request is accepted or refused immediately; its recording is written to a temporary folder, separated there by one of
a few threads, and the folder is deleted when the response has been sent or the client has disconnected.
"""

import asyncio
import base64
import contextlib
import errno
import json
import logging
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi_offline import FastAPIOffline

from mossformer_sb.data.audio_writing import FORMATS, NotWritten
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.inference.serving import Full, Limits, TemporaryFolder, TooLong, Turns
from mossformer_sb.service.upload import ClientDisconnect, receive
from mossformer_sb.version import __version__

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
CLIENT_CLOSED = 499  # only for the log
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_BASE64_BLOCK = 3 * 2**16  # bytes: of a multiple of 3, base64 can be concatenated
PARAMETERS = {"answer", "format", "level", "channel", "name"}  # of a separation, in the address
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
ANSWERS = {
    200: {
        "description": "The tracks, one per speaker",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}, "application/json": {}},
    },
    400: {"description": "No recording in the request"},
    408: {"description": "The client sends too slowly"},
    413: {"description": "The recording is too large or too long"},
    422: {"description": "The recording can't be separated, or a parameter is invalid"},
    429: {"description": "The queue is full"},
    503: {"description": "Out of memory for this recording"},
    507: {"description": "The service's disk is full"},
}


def create_app(model: MossFormerSeparation, limits: Limits | None = None) -> FastAPI:
    """The service of a model, as an ASGI application.

    Arguments
    ---------
    model : MossFormerSeparation
    limits : Limits, optional
        Limits of the service. Default: ``Limits()``.

    Returns
    -------
    fastapi.FastAPI
    """
    limits = limits or Limits()
    turns = Turns(limits.parallel, limits.waiting)
    threads = ThreadPoolExecutor(turns.number, thread_name_prefix="separate")  # one per waiting request
    app = FastAPIOffline(
        title="mossformer_sb",
        version=__version__,
        summary="Separates the speakers of a recording.",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.turns = turns

    @app.get("/health", summary="Whether the service runs, and its model")
    async def health():
        return {
            "status": "ok",
            "speakers": model.hparams.num_spks,
            "sample_rate": model.hparams.sample_rate,
            "busy": turns.taken,
            "places": turns.number,
        }

    @app.post("/separate", summary="Separate a recording", openapi_extra=BODY, responses=ANSWERS)
    async def separate(
        request: Request,
        answer: Literal["zip", "json"] = Query("zip", description="zip: a file; json: tracks in base64"),
        format: Literal[tuple(FORMATS)] = Query("wav", description="format of the tracks"),  # type: ignore[valid-type]
        level: Literal[tuple(LEVELS)] = Query(LEVELS[0], description="as for `mossformer-sb separate`"),  # type: ignore[valid-type]
        channel: int | None = Query(None, ge=0, description="channel to separate, from 0; default: the mean of all"),
        name: str | None = Query(None, description="prefix of the tracks' names; default: the sent file's name"),
    ):
        unknown = sorted({*request.query_params} - PARAMETERS)
        if unknown:  # FastAPI would ignore a mistyped one
            known = ", ".join(sorted(PARAMETERS))
            raise HTTPException(422, f"unknown parameter {', '.join(unknown)}: the parameters are {known}.")
        with _faults_of_the_server(), contextlib.ExitStack() as stack:
            try:
                stack.enter_context(turns.place())
            except Full as error:
                raise HTTPException(429, str(error), headers={"Retry-After": str(RETRY_SECONDS)}) from error
            folder = stack.enter_context(TemporaryFolder())
            try:
                path, sent = await receive(request, folder, limits)
            except ClientDisconnect:
                return JSONResponse({"detail": "the client disconnected"}, CLIENT_CLOSED)
            gone = threading.Event()
            work = asyncio.get_running_loop().run_in_executor(
                threads, _separate, turns, gone, model, path, sent, format, level, channel, limits
            )
            tracks = await _unless_gone(request, work, gone)
            if tracks is None:
                return JSONResponse({"detail": "the client disconnected"}, CLIENT_CLOSED)
            if answer == "json":
                packed = await asyncio.to_thread(_as_json, tracks, folder, format)
                return TemporaryFile(packed, "application/json", cleanup=stack.pop_all())
            packed = await asyncio.to_thread(_as_zip, tracks, folder)
            return TemporaryFile(packed, "application/zip", filename=packed.name, cleanup=stack.pop_all())

    return app


class TemporaryFile(FileResponse):
    """A file response whose file is removed afterwards, also if the client disconnects."""

    def __init__(self, path, media_type, cleanup, filename=None):
        super().__init__(path, filename=filename, media_type=media_type)
        self.cleanup = cleanup

    async def __call__(self, scope, receive, send):
        """Send it."""
        with self.cleanup:
            await super().__call__(scope, receive, send)


@contextlib.contextmanager
def _faults_of_the_server():
    """Context: out of memory, or a full disk, as status codes that tell the client to try again elsewhere or later."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise HTTPException(503, "out of memory for this recording. Try again later.") from error
    except (NotWritten, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _FULL_DISK:
            raise
        logger.error("a recording or its tracks can't be written: %s", error)
        message = "the recording or its tracks can't be written: the service's disk may be full. Try again later."
        raise HTTPException(507, message) from error


class _Gone(Exception):
    """The client disconnected before the separation."""


async def _unless_gone(request, work, gone):
    """The result of a function; None, without calling it, if the client disconnects before its turn."""
    while not work.done():
        await asyncio.wait([work], timeout=0.5)
        if not work.done() and await request.is_disconnected():
            # A started separation can't be stopped, and its folder is needed until it ends.
            gone.set()
    try:
        return work.result()
    except _Gone:
        return None


def _separate(turns, gone, model, path, name, format, level, channel, limits):
    """Paths of the tracks; called in a thread."""

    def waiting(num_ahead):
        if gone.is_set():
            raise _Gone

    try:
        with turns.turn(waiting):
            limits.check_length(path)
            options = {"name": name, "level": level, "channel": channel}
            return model.separate_file(path, path.parent / "tracks", format, return_estimates=False, **options)
    except NotWritten:
        raise
    except InputError as error:
        # Messages have the client's name of the recording, not that of the temporary file.
        status = 413 if isinstance(error, TooLong) else 422
        raise HTTPException(status, str(error).replace(str(path), name)) from error


def _as_json(tracks, folder, format):
    """The file of the answer, written in blocks: tracks may be larger than the free memory."""
    answer = folder / "answer.json"
    with open(answer, "wb") as file:
        file.write(f'{{"format":{json.dumps(format)},"tracks":['.encode())
        for number, track in enumerate(tracks):
            name = json.dumps(track.name, ensure_ascii=False)
            file.write(f'{"," if number else ""}{{"name":{name},"content":"'.encode())
            with open(track, "rb") as audio:
                while block := audio.read(_BASE64_BLOCK):
                    file.write(base64.b64encode(block))
            file.write(b'"}')
        file.write(b"]}")
    return answer


def _as_zip(tracks, folder):
    archive = folder / f"{tracks[0].stem.rpartition('_spk')[0]}.zip"
    with zipfile.ZipFile(archive, "w") as file:  # audio is hardly compressible
        for track in tracks:
            file.write(track, track.name)
    return archive
