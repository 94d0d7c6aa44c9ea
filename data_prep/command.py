"""Common parts of this package's command lines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded, refusing_long_names

if TYPE_CHECKING:
    import argparse

INTERRUPTED = 130  # exit code, as in shells
PATHS = ("from_speech", "noise")  # options that are paths, in addition to those with such a name
# Options with other names in earlier versions.
RENAMED = {"--deep": "--check_samples", "--on_bad": "--on_invalid"}


def run(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> int:
    """Parses arguments and calls the function of the chosen command.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Its commands set `function`, which gets all other options as keyword arguments.
    arguments : list of str, optional
        Default: those of the command line.

    Returns
    -------
    status : int
        0, 2 after an input error, or 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _check_names(sys.argv[1:] if arguments is None else arguments)
        options = expanded(vars(parser.parse_args(arguments)))
        function = options.pop("function")
        _check_given(options)
        with _working(options), refusing_long_names():
            function(**options)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Finished files are kept: run the same command again to resume.\n")
        return INTERRUPTED
    return 0


def add_cluster_argument(parser: argparse.ArgumentParser) -> None:
    """Declares `--cluster`, for commands that write files."""
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="address of a Dask scheduler, as in tcp://host:8786, or its scheduler file: its workers write the files, "
        "on a shared file system (extra `cluster`, see docs/bulk.md)",
    )


def _working(options):
    """Context of a command: removes `cluster` from the options, and makes paths absolute for it."""
    address = options.pop("cluster", None)
    if address is None or options.get("dry_run"):
        return contextlib.nullcontext()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--cluster is given under torchrun. Start one process, without torchrun.")
    if "workers" in options:
        raise InputError(
            f"--workers {options['workers']} and --cluster are given: a cluster has its own workers. Remove one of "
            f"them."
        )
    from data_prep.parallel import on_cluster

    paths = {key: os.path.abspath(value) for key, value in options.items() if _is_path(key, value)}
    options |= paths
    written = options.get("data_folder", options["output_folder"])
    return on_cluster(address, written, [path for path in paths.values() if os.path.exists(path)])


def _is_path(key, value):
    return isinstance(value, str) and (key.endswith(("_folder", "_file")) or key in PATHS)


def _check_given(options):
    """Refuses empty values, which would mean the current folder."""
    for key, value in options.items():
        if value == "":
            raise InputError(f"--{key} is empty: give a value, or remove the option. A shell variable may be unset.")


def _check_names(words):
    """Refuses names of options of earlier versions."""
    for word in words:
        name = word.partition("=")[0]
        if name in RENAMED:
            raise InputError(f"{name} is now called {RENAMED[name]}: give it under this name.")
