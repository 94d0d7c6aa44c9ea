"""The HTTP service: an endpoint that separates, and a health check.

A request is accepted or refused at once; its recording is written to a temporary folder, separated there by one of a
few threads, and the folder is deleted when the response has been sent or the client has disconnected.
"""

import asyncio
import base64
import contextlib
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi_offline import FastAPIOffline

from mossformer_sb.data.audio_io import FORMATS, Recording
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.service.limits import Limits
from mossformer_sb.service.upload import ClientDisconnect, receive
from mossformer_sb.version import __version__

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
CLIENT_CLOSED = 499  # no client reads it; it is for the log
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
        "description": "The tracks, one for each speaker",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}, "application/json": {}},
    },
    400: {"description": "No recording in the request"},
    408: {"description": "The client sends too slowly"},
    413: {"description": "The recording is too large or too long"},
    422: {"description": "The recording can't be separated, or a parameter is wrong"},
    429: {"description": "Too many are waiting"},
}


class Places:
    """Limit of concurrent requests; one more is refused.

    Example
    -------
    >>> places = Places(1)
    >>> with places.take():
    ...     places.taken
    1
    >>> places.taken
    0
    """

    def __init__(self, number: int) -> None:
        self.number, self.taken = number, 0

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Raises HTTPException 429 if there is none. Not thread-safe."""
        if self.taken >= self.number:
            raise HTTPException(
                429,
                f"{self.taken} recordings are being separated or waiting, the maximum. Try again later.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


def create_app(model: MossFormerSeparation, limits: Limits | None = None) -> FastAPI:
    """The service of a model, to run in any ASGI server.

    Arguments
    ---------
    model : MossFormerSeparation
    limits : Limits, optional
        Default: ``Limits()``.

    Returns
    -------
    fastapi.FastAPI
    """
    limits = limits or Limits()
    places = Places(limits.parallel + limits.waiting)
    threads = ThreadPoolExecutor(limits.parallel, thread_name_prefix="separate")
    app = FastAPIOffline(
        title="mossformer_sb",
        version=__version__,
        summary="Separates the speakers of a recording.",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.places = places

    @app.get("/health", summary="Whether the service runs, and its model")
    async def health():
        return {
            "status": "ok",
            "speakers": model.hparams.num_spks,
            "sample_rate": model.hparams.sample_rate,
            "busy": places.taken,
            "places": places.number,
        }

    @app.post("/separate", summary="Separate a recording", openapi_extra=BODY, responses=ANSWERS)
    async def separate(
        request: Request,
        answer: Literal["zip", "json"] = Query("zip", description="zip: a file; json: tracks in base64"),
        format: Literal[tuple(FORMATS)] = Query("wav", description="of the tracks"),  # type: ignore[valid-type]
        level: Literal[tuple(LEVELS)] = Query(LEVELS[0], description="as for `mossformer-sb separate`"),  # type: ignore[valid-type]
        channel: int | None = Query(None, ge=0, description="which channel, from 0; default: the mean of all"),
        name: str | None = Query(None, description="what the tracks' names begin with; default: the sent file's name"),
    ):
        with contextlib.ExitStack() as stack:
            stack.enter_context(places.take())
            folder = Path(tempfile.mkdtemp(prefix="mossformer-sb-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                path, sent = await receive(request, folder, limits)
            except ClientDisconnect:
                return JSONResponse({"detail": "the client disconnected"}, CLIENT_CLOSED)
            work = asyncio.get_running_loop().run_in_executor(
                threads, _separate, model, path, sent, format, level, channel, limits
            )
            tracks = await _unless_gone(request, work)
            if tracks is None:
                return JSONResponse({"detail": "the client disconnected"}, CLIENT_CLOSED)
            if answer == "json":
                return JSONResponse(_as_json(tracks, format))
            archive = await asyncio.to_thread(_as_zip, tracks, folder)
            return TemporaryFile(archive, filename=f"{archive.stem}.zip", cleanup=stack.pop_all())

    return app


class TemporaryFile(FileResponse):
    """A file response whose file is removed afterwards, also if the client disconnects."""

    def __init__(self, path, filename, cleanup):
        super().__init__(path, filename=filename, media_type="application/zip")
        self.cleanup = cleanup

    async def __call__(self, scope, receive, send):
        """Send it."""
        with self.cleanup:
            await super().__call__(scope, receive, send)


async def _unless_gone(request, work):
    """The result of some work; None, without starting it, if the client disconnects before its turn."""
    while not work.done():
        await asyncio.wait([work], timeout=0.5)
        if not work.done() and await request.is_disconnected() and work.cancel():
            # Work that has started can't be stopped, and its folder is needed until it ends.
            return None
    return work.result()


def _separate(model, path, name, format, level, channel, limits):
    """Paths of the tracks; in a thread."""
    try:
        _check_length(Recording(path), limits)
        options = {"name": name, "level": level, "channel": channel}
        return model.separate_file(path, path.parent / "tracks", format, return_estimates=False, **options)
    except InputError as error:
        # The recording has the client's name for it, not that of a temporary file.
        raise HTTPException(422, str(error).replace(str(path), name)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise HTTPException(503, "there is too little memory for this recording now. Try again later.") from error


def _check_length(recording, limits):
    longest, samples = 60 * limits.minutes * recording.sample_rate, recording.num_samples
    if samples is None:  # only known after reading
        samples = 0
        for block in recording.blocks():
            samples += len(block)
            if samples > longest:
                break
    if samples > longest:
        raise HTTPException(
            413,
            f"the recording takes {samples / recording.sample_rate / 60:.1f} minutes or more; the maximum is "
            f"{limits.minutes:g}. Cut it, or start the service with a larger --max_minutes.",
        )


def _as_json(tracks, format):
    return {
        "format": format,
        "tracks": [{"name": track.name, "content": base64.b64encode(track.read_bytes()).decode()} for track in tracks],
    }


def _as_zip(tracks, folder):
    archive = folder / f"{tracks[0].stem.rpartition('_spk')[0]}.zip"
    with zipfile.ZipFile(archive, "w") as file:  # audio is hardly compressible
        for track in tracks:
            file.write(track, track.name)
    return archive
