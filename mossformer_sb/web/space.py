"""The page as a Hugging Face Space: a folder with all files of a Space, to upload."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mossformer_sb.errors import InputError
from mossformer_sb.network.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from mossformer_sb.utils.files import atomic_folder, expanded
from mossformer_sb.version import __version__
from mossformer_sb.web import EXAMPLE_CREDIT, check_web
from mossformer_sb.web.models import Models

if TYPE_CHECKING:
    from mossformer_sb.web.server import Settings

_APP = '''"""The page of `mossformer-sb web`, as a Hugging Face Space."""

import os
from pathlib import Path

from mossformer_sb.web.server import Settings, serve

FOLDER = Path(__file__).parent
MODELS = {models}  # folders next to this file, or names of released models

settings = Settings(
    models=tuple(str(FOLDER / name) if (FOLDER / name).is_dir() else name for name in MODELS),
    host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    device={device},
    max_minutes={max_minutes},
    max_megabytes={max_megabytes},
    keep_minutes={keep_minutes},
)

if __name__ == "__main__":
    serve(settings, lambda address: print(f"The page is at {{address}}", flush=True))
'''

_REQUIREMENTS = """\
# If this version is not on PyPI, give the repository instead: mossformer_sb[web] @ git+https://...
mossformer_sb[web]=={version}
"""

_README = """\
---
title: Separate speakers
emoji: 🗣️
colorFrom: blue
colorTo: red
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
license: apache-2.0
short_description: Hear each of several people who talk at once
---

# Separate speakers

Upload a recording in which people talk at the same time, and listen to each of them. This Space was written by
`mossformer-sb web --space`.

- Run it locally: `pip install -r requirements.txt`, then `python app.py`.
- Publish it: create a Space (SDK: Gradio) at <https://huggingface.co/new-space>, then
  `hf upload NAME/SPACE . --repo-type space` in this folder.

Recordings are sent to the Space's server, which deletes them when the page is closed, or after {keep_minutes:g}
minutes.

The example: {credit}
"""


def write_space(folder: str | Path, settings: Settings) -> Path:
    """Write a Space: `app.py`, `requirements.txt`, `README.md`, and the models that are folders.

    Of a model, only its configuration, weights and card are copied: a Space is public, and the output folder of a
    training, which stands for its export, has checkpoints, logs and manifests with paths, and audio.

    Arguments
    ---------
    folder : str or Path
        Folder to write, which must not exist or must be empty.
    settings : mossformer_sb.web.server.Settings
        Host and port are ignored: a Space has its own.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the folder is not empty, or there is no model.
    """
    check_web()
    folder = Path(expanded(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists, and is not empty. Give a new folder for the Space.")
    local = _unique_names([source for source in settings.models if Path(source).is_dir()])
    models = Models(settings.models, settings.device)
    for label in models.local_labels:
        models.load(label)
    with atomic_folder(folder) as temporary:
        for source, name in local.items():
            _copy_model(source, temporary / name)
        keys = ("device", "max_minutes", "max_megabytes", "keep_minutes")
        values = {key: _in_python(getattr(settings, key)) for key in keys}
        names = [local.get(source, source) for source in settings.models]
        files = {
            "app.py": _APP.format(models=names, **values),
            "requirements.txt": _REQUIREMENTS.format(version=__version__),
            "README.md": _README.format(
                gradio=importlib.metadata.version("gradio"), credit=EXAMPLE_CREDIT, keep_minutes=settings.keep_minutes
            ),
        }
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
    return folder


def _in_python(value):
    return 'float("inf")' if value == float("inf") else repr(value)


def _copy_model(source, folder):
    """Copy the files that are loaded, and the card."""
    from mossformer_sb.sharing.loading import find_model

    model = find_model(source).folder
    folder.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)


def _unique_names(sources):
    """From each source to the name of its folder in the Space."""
    names = {}
    for source in sources:
        name = stem = Path(source).resolve().name
        number = len(names)
        while name in names.values():
            number += 1
            name = f"{stem}-{number}"
        names[source] = name
    return names
