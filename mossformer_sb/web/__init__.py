"""The web page of ``mossformer-sb web``: separation in the browser, on this machine or as a Hugging Face Space.

Gradio, in the extra ``web``, is imported when a page is built.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mossformer_sb.errors import InputError

__all__ = ["EXAMPLE", "check_web"]

EXAMPLE = Path(__file__).parent / "two_speakers.flac"  # examples/README.md has its origin and licence
# Attribution of the example on the page, which its licence requires.
EXAMPLE_CREDIT = "Two utterances of LibriSpeech (Panayotov et al., 2015), resampled, cut and summed; licence CC BY 4.0."


def check_web() -> None:
    """Raise InputError if the extra ``web`` is not installed."""
    absent = [name for name in ("gradio", "matplotlib") if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"the web page needs {' and '.join(absent)}, which is not installed: pip install 'mossformer_sb[web]'."
        )
