"""Long conversations, separated in chunks: swaps of the speakers, and clicks at the joins.

Two speakers take turns, and overlap at each change of turns. Utterances are those of the test set; only the lengths of
turns are drawn.

Shapes: T samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from data_prep.corpora.many_speakers_sources import SAMPLE_RATE
from mossformer_sb.evaluation.si_snr import pairwise_si_snr
from mossformer_sb.inference.chunking import Chunking, joins

TURN_SECONDS = (3.0, 8.0)  # shortest and longest turn
OVERLAP = 0.3  # share of the time in which both speak
LEVEL = 0.05  # root mean square of each turn
WINDOW_SECONDS = 2.0  # over which the order of the speakers is decided
FRAME_SECONDS = 0.02
ACTIVE_LEVEL = 10 ** (-40 / 20)  # of a frame, relative to the speaker's loudest; less is a pause
ACTIVE_SECONDS = 0.5  # of each speaker, for a window in which both speak
JUMP_QUANTILE = 0.999


@dataclass(frozen=True)
class Stability:
    """Sums over conversations.

    Attributes
    ----------
    swaps : tuple of int
        Of each conversation: how often the best order changes from one window in which both speak to the next one.
    windows : int
        Windows in which both speak.
    clicks, edges : int
        At how many of the borders of chunks an output jumps further than in 99.9 % of its samples. Chance alone gives
        one in a thousand.
    """

    swaps: tuple
    windows: int
    clicks: int
    edges: int


def conversation(first, second, seconds, seed):
    """Turns of two speakers, one after the other: [T, 2], float32.

    Arguments
    ---------
    first, second : sequence of numpy.ndarray
        Utterances of each speaker, [T] each. They are used one after the other, and again from the first.
    seconds : float
        Length.
    seed : int
        Random seed of the lengths of the turns.

    Returns
    -------
    numpy.ndarray
        Sources. Their sum is the conversation; about 30 % of it belongs to both speakers.

    Example
    -------
    >>> sources = conversation([np.ones(8000)], [np.ones(3000)], seconds=60, seed=0)
    >>> sources.shape, round(float((np.abs(sources).min(axis=1) > 0).mean()), 1)
    ((480000, 2), 0.3)
    """
    rng = np.random.default_rng(seed)
    length = round(seconds * SAMPLE_RATE)
    speech = [np.concatenate(utterances) for utterances in (first, second)]
    sources, used = np.zeros((length, 2), np.float32), [0, 0]
    start, turn, speaker = 0, _turn(rng), 0
    while start < length:
        # Both speak for a share OVERLAP of the time if a turn starts this much before the end of the one before.
        following = _turn(rng)
        excerpt = np.take(speech[speaker], range(used[speaker], used[speaker] + turn), mode="wrap")
        used[speaker] += turn
        scaled = LEVEL * excerpt / max(1e-9, np.sqrt(np.mean(np.square(excerpt))))
        sources[start : start + turn, speaker] = scaled[: length - start]
        start += turn - round(OVERLAP / (1 + OVERLAP) * (turn + following) / 2)
        turn, speaker = following, 1 - speaker
    return sources


def _turn(rng):
    return round(rng.uniform(*TURN_SECONDS) * SAMPLE_RATE)


def separate_conversations(model, speakers, number, seconds, chunking=None):
    """Separate long conversations in chunks.

    Arguments
    ---------
    model : MossFormerSeparation
    speakers : mapping
        speaker → utterances, [T] each.
    number : int
        Number of conversations, of two speakers each.
    seconds : float
        Length of a conversation.
    chunking : Chunking, optional
        Default: ``Chunking()``.

    Returns
    -------
    Stability
    """
    chunking = chunking or Chunking()
    names = list(speakers)
    swaps, windows, clicks, edges = [], 0, 0, 0
    for index in tqdm(range(number), "Conversations", unit="conversation", disable=None):
        first, second = names[index % len(names)], names[(index + 1 + index // len(names)) % len(names)]
        sources = conversation(speakers[first], speakers[second], seconds, seed=index)
        estimates = model.separate(sources.sum(1), chunking=chunking).numpy()
        found = count_swaps(estimates, sources)
        swaps.append(found[0])
        windows += found[1]
        found = count_clicks(estimates, joins(len(sources), *chunking.samples(SAMPLE_RATE)))
        clicks += found[0]
        edges += found[1]
    return Stability(tuple(swaps), windows, clicks, edges)


def count_swaps(estimates, sources):
    """How often the speakers are swapped, from one window in which both speak to the next one.

    Arguments
    ---------
    estimates, sources : numpy.ndarray
        [T, 2].

    Returns
    -------
    swaps, windows : int
        Changes of the best order, and windows in which both speak.

    Example
    -------
    >>> sources = np.random.randn(80000, 2)
    >>> swapped = np.concatenate([sources[:40000], sources[40000:, ::-1]])
    >>> count_swaps(sources, sources), count_swaps(swapped, sources)
    ((0, 5), (1, 5))
    """
    size, active = round(WINDOW_SECONDS * SAMPLE_RATE), _active(sources)
    orders = []
    for start in range(0, len(sources) - size + 1, size):
        window = slice(start, start + size)
        if active[window].sum(axis=0).min() < ACTIVE_SECONDS * SAMPLE_RATE:
            continue
        pair = (torch.from_numpy(np.ascontiguousarray(x[None, window])) for x in (estimates, sources))
        ratios = pairwise_si_snr(*pair)[0]
        orders.append(bool(ratios.diagonal().sum() >= ratios.flip(0).diagonal().sum()))
    return sum(before != after for before, after in zip(orders, orders[1:], strict=False)), len(orders)


def _active(sources):
    """Whether a speaker speaks, by the level of frames: [T, 2] → [T, 2] bool."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = sources[: len(sources) // size * size].reshape(-1, size, sources.shape[1])
    levels = np.sqrt(np.square(frames).mean(axis=1))
    active = np.repeat(levels > ACTIVE_LEVEL * levels.max(axis=0), size, axis=0)
    return np.pad(active, ((0, len(sources) - len(active)), (0, 0)))


def count_clicks(estimates, fades):
    """At how many borders of chunks an output jumps further than in 99.9 % of its other samples.

    Arguments
    ---------
    estimates : numpy.ndarray
        [T, S].
    fades : sequence of tuple of int
        Start and end of each overlap, as from `mossformer_sb.inference.chunking.joins`.

    Returns
    -------
    clicks, edges : int
        Number of borders with a click, and of all borders.

    Example
    -------
    >>> signal = np.sin(np.arange(8000) / 5)[:, None]
    >>> broken = np.concatenate([signal[:4000], signal[4020:]])
    >>> count_clicks(signal, [(3000, 4000)]), count_clicks(broken, [(3000, 4000)])
    ((0, 2), (1, 2))
    """
    jumps = np.abs(np.diff(estimates, axis=0))
    borders = np.array([edge - 1 for fade in fades for edge in fade if 0 < edge < len(estimates)], dtype=int)
    limits = np.quantile(np.delete(jumps, borders, axis=0), JUMP_QUANTILE, axis=0)
    return int((jumps[borders] > limits).sum()), jumps[borders].size
