"""A small corpus without downloads: synthetic voices in synthetic noise, laid out as WHAM!.

It is for tests and for a first training within minutes. Its speech and noise are simple: results on it show that the
code works, not how it performs on real recordings.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data_prep.choices import SAMPLE_RATES, SPLITS, check_choice
from data_prep.demo_corpus.mixture_tree import DESCRIPTION, check_free, trim_silence, write_wham_tree
from data_prep.demo_corpus.synthetic_noise import make_noise
from data_prep.demo_corpus.voices import list_voices, synthesize
from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

VERSION = 1  # of the corpus; to be increased when the same arguments give other samples
USES = 3  # average number of uses of an utterance
MAX_UTTERANCES = 100  # per voice
NUM_CLIPS = {"tr": 24, "cv": 8, "tt": 8}
CLIP_SECONDS = 10
HELD_OUT = 8  # of every 8 voices, one is for validation and one for test


def make_mini_corpus(
    data_folder: str,
    num_train: int = 1000,
    num_valid: int = 100,
    num_test: int = 100,
    seed: int = 1234,
    sample_rate: int = 8000,
) -> None:
    """Generates the small corpus, unless it exists with the same arguments.

    The splits share no voice, no utterance and no noise. The same arguments give the same samples.

    Arguments
    ---------
    data_folder : str
        Folder of the corpus.
    num_train, num_valid, num_test : int
        Numbers of mixtures.
    seed : int
        Seed of all random numbers.
    sample_rate : int
        8000 or 16000.

    Raises
    ------
    InputError
        If an argument is invalid, or the folder holds another corpus.
    """
    check_choice("sample_rate", sample_rate, SAMPLE_RATES)
    numbers = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
    for key, number in numbers.items():
        if number < 1:
            raise InputError(f"{key} is {number}: give at least 1.")
    if seed < 0:
        raise InputError(f"seed is {seed}: give 0 or more.")
    num_mixtures = {"tr": num_train, "cv": num_valid, "tt": num_test}
    description = {"corpus": "mini", "version": VERSION, "seed": seed, "sample_rate": sample_rate}
    description |= numbers
    if _exists(Path(expanded(data_folder)), description):
        logger.info("The small corpus exists: %s", data_folder)
        return

    speech, noise = {}, {}
    for split, voices in split_voices(list_voices()).items():
        rng = np.random.default_rng([VERSION, seed, SPLITS.index(split)])
        count = min(MAX_UTTERANCES, math.ceil(2 * num_mixtures[split] / USES / len(voices)))
        speech[split] = {
            speaker: _speak(voice, count, rng, sample_rate)
            for speaker, voice in tqdm(voices.items(), f"Speaking {split}", unit="voice", disable=None)
        }
        utterances = [utterance for speaker in speech[split].values() for utterance in speaker]
        length = CLIP_SECONDS * sample_rate
        noise[split] = [make_noise(i, utterances, rng, length, sample_rate) for i in range(NUM_CLIPS[split])]
    write_wham_tree(data_folder, speech, noise, num_mixtures, seed, sample_rate, description=description)
    logger.info("Generated the small corpus: %s", data_folder)


def split_voices(voices: Sequence[str]) -> dict:
    """Divides a list of voices among the splits, evenly over the list, in which similar voices are neighbours.

    Returns
    -------
    splits : dict
        split → speaker's code → voice.

    Example
    -------
    >>> split_voices([*"abcdefgh"])["cv"]
    {'v01': 'b'}
    """
    splits = {split: {} for split in SPLITS}
    for index, voice in enumerate(voices):
        split = {1: "cv", 5: "tt"}.get(index % HELD_OUT, "tr")
        splits[split][f"v{index:02x}"] = voice
    return splits


def _exists(data_folder, description):
    path = data_folder / DESCRIPTION
    if not path.is_file():
        check_free(data_folder)
        return False
    found = json.loads(path.read_text())
    if found == description:
        return True
    different = [key for key in description | found if found.get(key) != description.get(key)]
    has, asked = (", ".join(f"{key} {values.get(key)!r}" for key in different) for values in (found, description))
    raise InputError(
        f"data_folder '{data_folder}' holds a corpus with {has}; requested is {asked}: give the same values or another "
        f"data_folder, or delete this one."
    )


# Speech


def _speak(voice, count, rng, sample_rate):
    """Synthesises `count` sentences. Every speaker has a pitch and rate, with small random deviations per sentence."""
    pitch, rate = rng.integers(30, 71), rng.integers(145, 196)
    utterances = []
    for _ in range(count):
        options = {"pitch": int(pitch + rng.integers(-4, 5)), "rate": int(rate + rng.integers(-8, 9))}
        speech = synthesize(make_sentence(rng), voice, sample_rate=sample_rate, **options)
        utterances.append(trim_silence(speech, sample_rate))
    return utterances


_WORDS = {
    "noun": (
        "farmer river teacher window captain letter market doctor garden station sister village artist bridge clock "
        "neighbour picture kitchen driver island hammer student mountain basket friend engine soldier table camera "
        "baker forest ticket writer bottle guest tower lawyer blanket singer harbour machine nurse pocket uncle valley "
        "pilot mirror dancer button cousin ladder painter candle sailor wagon mother newspaper stranger violin"
    ).split(),
    "adjective": (
        "old small bright heavy quiet broken yellow foreign gentle narrow clever wooden empty famous lazy purple "
        "silver warm hungry distant careful frozen modern simple strange tall noisy golden happy early plain thick "
        "brave rough smooth tiny ancient honest cheap dusty pleasant sharp dark green tired proud"
    ).split(),
    "verb": (
        "found carried watched followed painted repaired noticed wanted brought forgot borrowed opened dropped "
        "measured remembered described visited washed counted bought left chose covered pushed moved saved threw held "
        "collected showed admired finished searched reached lifted changed"
    ).split(),
    "adverb": (
        "slowly again quickly yesterday together often quietly almost suddenly carefully finally never nearly always "
        "gladly already perhaps later usually hardly"
    ).split(),
    "place": "near behind above beside under across inside around beyond against without towards".split(),
    "number": "two three four five six seven eight nine ten twelve fifteen twenty forty sixty ninety".split(),
    "time": (
        "this morning,last summer,before dinner,after the storm,every evening,on Friday,at midnight,in October,"
        "during the war,since the beginning,a week ago,twice a year,for seven hours,until the rain came"
    ).split(","),
    "opening": (
        "I think that,we were told that,as you know,they said that,it seems that,in the end,nobody knew that,"
        "the report says that,why do you believe that,she explained that,in our town,to my surprise"
    ).split(","),
}

_PATTERNS = (
    "the {adjective} {noun} {adverb} {verb} the {noun} {place} the {adjective} {noun}",
    "the {noun} and the {noun} {verb} {number} {adjective} {noun}s {time}",
    "{opening} the {noun} {verb} a {adjective} {noun} {time}",
    "my {noun} {verb} the {noun} {time}, but the {adjective} {noun} {verb} it {adverb}",
    "{place} the {noun} we {verb} {number} {noun}s and a {adjective} {noun}",
    "who {verb} the {adjective} {noun} {place} the {noun} {time}?",
    "{opening} your {adjective} {noun} {verb} our {noun}s {place} the {noun}",
    "{number} {adjective} {noun}s {adverb} {verb} the {noun} of the {adjective} {noun}",
)


def make_sentence(rng: np.random.Generator) -> str:
    """Generates a sentence of about three seconds.

    Example
    -------
    >>> make_sentence(np.random.default_rng(0))
    'the report says that your simple neighbour opened our teachers near the farmer'
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    while "{" in pattern:
        kind = pattern[pattern.index("{") + 1 : pattern.index("}")]
        pattern = pattern.replace(f"{{{kind}}}", _WORDS[kind][rng.integers(len(_WORDS[kind]))], 1)
    return pattern
