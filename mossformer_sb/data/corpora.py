"""The corpora: their names in experiments, and in tables and model cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# {num_spks}: the number of speakers is part of the name.
CORPUS_NAMES = {
    "wsj0mix": "WSJ0-{num_spks}mix",
    "wham": "WHAM!",
    "whamr": "WHAMR!",
    "librimix": "Libri{num_spks}Mix",
    "minilibrimix": "MiniLibriMix",
    "librimix_rooms": "generated mixtures of {num_spks} speakers in rooms",
    "custom": "custom data",
    "mini": "small corpus of synthetic voices",
    "many_speakers": "many speakers",
}


def corpus_name(settings: Mapping) -> str:
    """The name of an experiment's corpus in tables and model cards.

    Arguments
    ---------
    settings : Mapping
        Settings of the experiment: ``corpus``; ``corpus_name``, which takes precedence unless null; and ``num_spks``.

    Returns
    -------
    str
        Name of the corpus; the given name if it is not in `CORPUS_NAMES`.

    Example
    -------
    >>> corpus_name({"corpus": "wsj0mix", "num_spks": 3}), corpus_name({"corpus": "custom", "corpus_name": "my data"})
    ('WSJ0-3mix', 'my data')
    """
    name = settings.get("corpus_name") or CORPUS_NAMES.get(settings["corpus"], settings["corpus"])
    return name.replace("{num_spks}", str(settings.get("num_spks", 2)))
