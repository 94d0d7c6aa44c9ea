"""Published results, and the experiments that are comparable with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mossformer_sb.data.corpora import corpus_name

if TYPE_CHECKING:
    from collections.abc import Mapping

# SI-SNRi in dB on the test sets at 8 kHz, min, from Zhao and Ma, ICASSP 2023; of MossFormer2 from Zhao et al., ICASSP
# 2024 (DM: with dynamic mixing).
PUBLISHED = {
    "WSJ0-2mix": {
        "Conv-TasNet": 15.3,
        "DPRNN": 18.8,
        "MossFormer(S)": 20.9,
        "Wavesplit + DM": 22.2,
        "SepFormer + DM": 22.3,
        "MossFormer(M) + DM": 22.5,
        "MossFormer(L) + DM": 22.8,
        "MossFormer2 + DM": 24.1,
    },
    "WSJ0-3mix": {
        "Conv-TasNet": 12.7,
        "Wavesplit + DM": 17.8,
        "SepFormer + DM": 19.5,
        "MossFormer(L) + DM": 21.2,
        "MossFormer2 + DM": 22.2,
    },
    "WHAM!": {"Wavesplit + DM": 16.0, "SepFormer + DM": 16.4, "MossFormer(L) + DM": 17.3, "MossFormer2 + DM": 18.1},
    "WHAMR!": {"Wavesplit + DM": 13.2, "SepFormer + DM": 14.0, "MossFormer(L) + DM": 16.3, "MossFormer2 + DM": 17.0},
}
_PUBLISHED_FOR = {  # further settings of a test that is comparable with these
    "WSJ0-2mix": {"task": "separate_clean"},
    "WSJ0-3mix": {"task": "separate_clean"},
    "WHAM!": {"task": "separate_noisy"},
    "WHAMR!": {"task": "separate_noisy_reverb", "target": "anechoic"},
}
_DEFAULTS = {"mode": "min", "target": "anechoic"}  # the meaning of null


def comparable_corpus(hparams: Mapping) -> str:
    """The corpus of an experiment, if its test has the published task, sample rate and mode; else an empty string.

    Example
    -------
    >>> hparams = {"corpus": "wham", "task": "separate_noisy", "sample_rate": 8000, "mode": "min"}
    >>> comparable_corpus(hparams), comparable_corpus({**hparams, "task": "separate_clean"})
    ('WHAM!', '')
    """
    corpus = corpus_name(hparams)
    needed = {"sample_rate": 8000, "mode": "min", **_PUBLISHED_FOR.get(corpus, {})}
    found = {**_DEFAULTS, **{key: value for key, value in hparams.items() if value is not None}}
    same = all(found.get(key) == value for key, value in needed.items())
    return corpus if corpus in PUBLISHED and same else ""
