"""The corpora by name, as experiments choose them, and as tables and model cards call them."""

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


def corpus_name(settings):
    """What tables and model cards call the corpus of an experiment.

    Arguments
    ---------
    settings : Mapping
        Of the experiment: ``corpus``; ``corpus_name``, which goes before it unless null; and ``num_spks``.

    Returns
    -------
    str
        A corpus that is not in `CORPUS_NAMES` is called as it is given.

    Example
    -------
    >>> corpus_name({"corpus": "wsj0mix", "num_spks": 3}), corpus_name({"corpus": "custom", "corpus_name": "my data"})
    ('WSJ0-3mix', 'my data')
    """
    name = settings.get("corpus_name") or CORPUS_NAMES.get(settings["corpus"], settings["corpus"])
    return name.replace("{num_spks}", str(settings.get("num_spks", 2)))
