"""``mossformer-sb web``: serve a web page that separates recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mossformer_sb.cli.model_options import MODEL_SOURCES

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Serve a web page on this machine: upload or record audio, listen to each speaker, see spectrograms, and download.

  mossformer-sb web                                        # with the packaged model
  mossformer-sb web --model results/small/export --model results/large/export
  mossformer-sb web --host 0.0.0.0 --port 8080             # for all computers in the network
  mossformer-sb web --model results/small/export --space my-space      # write a Hugging Face Space

Without --host, only this machine can reach it. No data is sent elsewhere; a model of a hub is downloaded. Uploads and
results are temporary files: they are deleted when a page is closed, after --keep_minutes, and when the program ends
(Ctrl+C). It needs the extra `web`: pip install 'mossformer_sb[web]'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from mossformer_sb.web.server import Settings

    defaults = Settings()
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help=f"{MODEL_SOURCES}; may be given several times (default: only the packaged model, which is always offered)",
    )
    parser.add_argument("--host", default=defaults.host, help=f"address to listen on (default: {defaults.host})")
    parser.add_argument("--port", type=int, default=defaults.port, help=f"0: any free port (default: {defaults.port})")
    parser.add_argument(
        "--device", default=defaults.device, help="auto (the best available), cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--max_minutes",
        type=float,
        default=defaults.max_minutes,
        help=f"longest recording that is accepted (default: {defaults.max_minutes:g})",
    )
    parser.add_argument(
        "--max_megabytes",
        type=int,
        default=defaults.max_megabytes,
        help=f"largest file that is accepted (default: {defaults.max_megabytes})",
    )
    parser.add_argument(
        "--keep_minutes",
        type=float,
        default=defaults.keep_minutes,
        help=f"delete files after this time, including those of open pages (default: {defaults.keep_minutes:g})",
    )
    parser.add_argument(
        "--listed_only",
        action="store_true",
        help="visitors can't type other models, as always with --host; for a proxy on this machine",
    )
    parser.add_argument("--space", metavar="FOLDER", help="write the files of a Hugging Face Space instead of serving")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from mossformer_sb.web.server import Settings, serve
    from mossformer_sb.web.space import write_space

    settings = Settings(
        models=tuple(arguments.model),
        host=arguments.host,
        port=arguments.port,
        device=arguments.device,
        max_minutes=arguments.max_minutes,
        max_megabytes=arguments.max_megabytes,
        keep_minutes=arguments.keep_minutes,
        listed_only=arguments.listed_only,
    )
    if arguments.space is not None:
        folder = write_space(arguments.space, settings)
        print(f"The Space is in {folder}. Its README.md says how to publish it.")
        return 0
    serve(settings, lambda address: print(f"The page is at {address} (Ctrl+C ends it).", flush=True))
    return 0
