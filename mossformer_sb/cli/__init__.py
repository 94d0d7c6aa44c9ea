"""The command line: ``mossformer-sb COMMAND``, or ``python -m mossformer_sb.cli COMMAND``.

Each command has a module with its ``DESCRIPTION``, ``add_arguments(parser)`` and ``run(arguments)``. Only ``run``
imports PyTorch, which takes seconds, so that ``--help`` and errors in the arguments are immediate.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import sys

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded, refusing_long_names
from mossformer_sb.version import __version__

__all__ = ["main"]

WRONG_INPUT, INTERRUPTED = 2, 130  # exit codes

COMMANDS = {  # the name of its module, and its help
    "separate": "separate recordings",
    "evaluate": "evaluate a model on a test set",
    "serve": "serve separation over HTTP, for programs",
    "score": "score estimates against references",
    "report": "write the report of a training",
    "export": "export a training as a model folder",
    "convert": "convert from or to the authors' checkpoints",
    "info": "describe a model folder or a manifest",
    "models": "list the authors' released models",
    "web": "serve a web page that separates recordings",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Arguments
    ---------
    argv : list of str, optional
        Command-line arguments without the program's name. Default: those of this program.

    Returns
    -------
    int
        Exit code: 0; 1 when some of many files failed; 2 for wrong input; 130 when interrupted from the keyboard.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    _escape_unknown_characters()
    parser = _parser(argv)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(unknown, getattr(arguments, "parser", parser))  # a command has one only if it comes first
    # Messages of this package, but only warnings of others.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mossformer_sb").setLevel(logging.INFO)
    try:
        with refusing_long_names():
            return arguments.run(argparse.Namespace(**expanded(vars(arguments)))) or 0
    except InputError as error:
        print(f"mossformer-sb {arguments.command}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        resumes = " Finished files are kept; the same command resumes." if arguments.command == "separate" else ""
        print(f"Interrupted.{resumes}", file=sys.stderr)
        return INTERRUPTED


def _escape_unknown_characters():
    """Print characters that the console's encoding lacks as escapes: a file's name is no reason to lose a result."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _refuse(unknown, parser):
    """End with a message about unknown arguments, with the command's options that look like them."""
    options = [name for action in parser._actions for name in action.option_strings]
    hints = []
    for word in unknown:
        close = difflib.get_close_matches(word.partition("=")[0], options, 1) if word.startswith("-") else []
        hints += [f"Did you mean {close[0]}?"] if close else []
    parser.error(" ".join([f"unrecognized arguments: {' '.join(unknown)}.", *hints]))


def _parser(argv):
    """The parser, with the arguments of the command in ``argv``."""
    parser = argparse.ArgumentParser(
        prog="mossformer-sb",
        description="Separate recordings, evaluate models, score separations, and share models.",
        epilog="'mossformer-sb COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"mossformer_sb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        chosen = name in argv[:1]
        module = importlib.import_module(f"{__name__}.{name}") if chosen else None
        command = commands.add_parser(
            name,
            help=summary,
            description=module.DESCRIPTION if chosen else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if chosen:
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)
    return parser
