"""``mossformer-sb serve``: serve separation over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mossformer_sb.cli.model_options import MODEL_SOURCES, add_model_options, model_options
from mossformer_sb.errors import InputError

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Separate recordings over HTTP. The model stays loaded.

  mossformer-sb serve --model MODEL
  curl --data-binary @talk.mp3 'http://127.0.0.1:8000/separate?name=talk' --output tracks.zip
  curl -F file=@talk.mp3 'http://127.0.0.1:8000/separate?answer=json&format=flac'

http://127.0.0.1:8000/docs documents all endpoints, http://127.0.0.1:8000/health is the health check. Status codes: 413
for a recording that is too large or too long, 429 if too many are waiting, 422 if it can't be read as audio. Ctrl-C and
SIGTERM end the service after all accepted recordings are separated. There is no authentication: use a reverse proxy
with passwords before other machines can reach it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--model",
        help=f"{MODEL_SOURCES} (default: the packaged model)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any (default: 8000)")
    parser.add_argument(
        "--device", default="auto", help="auto (the best available), cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument("--max_megabytes", type=float, default=200, help="largest request (default: 200)")
    parser.add_argument(
        "--max_minutes", type=float, default=60, help="longest recording, at up to 48 kHz (default: 60)"
    )
    parser.add_argument("--max_waiting", type=int, default=16, help="recordings that may wait (default: 16)")
    parser.add_argument("--parallel", type=int, default=1, help="recordings separated at a time (default: 1)")
    parser.add_argument(
        "--upload_seconds", type=float, default=30, help="longest pause of a client during an upload (default: 30)"
    )
    parser.add_argument(
        "--upload_minutes", type=float, default=15, help="longest time for an upload, in minutes (default: 15)"
    )
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the service until it is stopped; returns the exit code."""
    try:
        import uvicorn

        from mossformer_sb.service.app import create_app
    except ImportError as error:
        raise InputError(
            f"the service needs packages that are not installed ({error.name}): pip install 'mossformer_sb[serve]'."
        ) from error
    from mossformer_sb.inference.separation import MossFormerSeparation
    from mossformer_sb.inference.serving import Limits, check_port

    check_port(arguments.port)
    limits = Limits(
        arguments.max_megabytes,
        arguments.max_minutes,
        arguments.max_waiting,
        arguments.parallel,
        arguments.upload_seconds,
        arguments.upload_minutes,
    )
    model = MossFormerSeparation.from_hparams(arguments.model, device=arguments.device, **model_options(arguments))
    try:
        uvicorn.run(create_app(model, limits), host=arguments.host, port=arguments.port, server_header=False)
    except SystemExit as error:  # uvicorn has logged the reason
        raise InputError(
            f"can't listen on {arguments.host}:{arguments.port}: another program may use it. Give another --port."
        ) from error
    return 0
