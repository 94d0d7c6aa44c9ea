"""Speech activity of each speaker: Silero VAD on each separated output, without leakage.

A network never separates completely: where one speaker pauses, an attenuated copy of the other one leaks into the
output, and a voice activity detector reports it as speech. In such a segment the output is far below the other one; or
it is softer, and little remains after the part that is correlated with the other one is removed.

Shapes: T samples, t samples of a block, F frames of 32 ms, S speakers.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from mossformer_sb.data.resampling import resample_blocks
from mossformer_sb.errors import InputError
from mossformer_sb.inference.input_level import LEVEL
from mossformer_sb.inference.output_gain import LevelMeter

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAME_SECONDS = 0.032  # length of the detector's frames
# Tuned on 15 mixtures of the validation set and 12 conversations made from their speakers, see benchmarks/activity.py.
_FAR_BELOW_DB = -20.0  # an output that is this much below another one in the same frame is leakage
_SOFTER_DB = -4.0  # leakage is at least so much softer,
_REMAINDER_DB = -22.0  # and, without the part that is correlated with the other one, so much below it
_REACH = 1  # frames on each side over which levels are compared
_SPEECH = {"threshold": 0.5, "min_speech_duration_ms": 100, "min_silence_duration_ms": 100, "speech_pad_ms": 30}


def speech_activity(
    estimates: torch.Tensor | np.ndarray, sample_rate: int, mixture: torch.Tensor | np.ndarray | None = None
) -> list[list[tuple[float, ...]]]:
    """Speech activity of each speaker, from the outputs of a separation.

    Arguments
    ---------
    estimates : torch.Tensor or numpy.ndarray
        [T, S], as `MossFormerSeparation.separate` gives them.
    sample_rate : int
        Hz. 8 and 16 kHz are used directly, other rates are resampled to one of these.
    mixture : torch.Tensor or numpy.ndarray, optional
        [T], the recording. With it, the outputs are compared at their levels in the recording, since networks that are
        trained by SI-SNR have arbitrary output levels. Default: at the given levels.

    Returns
    -------
    list of list of tuple of float
        For each speaker, start and end of each speech segment, in seconds.

    Raises
    ------
    InputError
        If the shapes are wrong, or silero-vad is not installed (``pip install "mossformer_sb[activity]"``).

    Example
    -------
    >>> speech_activity(torch.zeros(16000, 2), sample_rate=8000)
    [[], []]
    """
    estimates = _as_array(estimates)
    if estimates.ndim != 2 or not estimates.size or estimates.shape[0] < estimates.shape[1]:
        raise InputError(f"estimates must be [samples, speakers]; found shape {list(estimates.shape)}.")
    if not isinstance(sample_rate, (int, np.integer)) or sample_rate < 1:
        raise InputError(f"sample_rate must be a whole number of Hz; found {sample_rate!r}.")
    if mixture is not None:
        mixture = _as_array(mixture)
        if mixture.shape != estimates.shape[:1]:
            raise InputError(
                f"mixture must be [samples], as long as the estimates: {len(estimates)}; found shape "
                f"{list(mixture.shape)}."
            )
    detector = ActivityDetector(estimates.shape[1], int(sample_rate))
    meter = LevelMeter()
    meter.add(estimates, estimates.sum(1) if mixture is None else mixture)
    return detector.segments([estimates], meter, fit=mixture is not None)


class ActivityDetector:
    """Speech activity of each speaker, from estimates in blocks.

    Arguments
    ---------
    num_spks : int
        S.
    sample_rate : int
        Sample rate of the estimates in Hz.
    analysed_rate : int, optional
        Sample rate in Hz whose band the estimates fill: below 16 kHz, Silero's model for 8 kHz is used. Default: as
        ``sample_rate``.

    Raises
    ------
    InputError
        If silero-vad is not installed.
    """

    def __init__(self, num_spks: int, sample_rate: int, analysed_rate: int | None = None) -> None:
        self.num_spks, self.sample_rate = num_spks, sample_rate
        self.rate = 16000 if (analysed_rate or sample_rate) >= 16000 else 8000
        self._model, self._to_segments = _load_silero()

    def segments(
        self, blocks: Iterable[np.ndarray], meter: LevelMeter, fit: bool = True
    ) -> list[list[tuple[float, ...]]]:
        """Speech activity of each speaker, as from `speech_activity`.

        Arguments
        ---------
        blocks : iterable of numpy.ndarray
            [t, S] each, at ``sample_rate``.
        meter : mossformer_sb.inference.output_gain.LevelMeter
            Levels of all blocks.
        fit : bool
            Whether to scale the estimates to the levels of the speakers in the recording.

        Returns
        -------
        list of list of tuple of float
        """
        gains = np.abs(meter.gain("speakers")) if fit else np.ones(self.num_spks)
        # Silero VAD misses more speech in quiet recordings, so all are scaled to one level.
        power = float((meter.energies * gains**2).sum()) / max(1, meter.num_samples)
        gains = gains * (LEVEL / np.sqrt(power) if power > 0 else 1.0)

        def scaled():
            for block in blocks:
                yield (block * gains).astype(np.float32)

        probabilities, products = self._analyse(resample_blocks(scaled(), self.sample_rate, self.rate))
        probabilities[_is_leakage(products)] = 0
        end = meter.num_samples / self.sample_rate
        return [self._speech_segments(probabilities[:, speaker], end) for speaker in range(self.num_spks)]

    def _analyse(self, blocks):
        """Probability of speech [F, S], and inner products of the outputs [F, S, S], of each frame."""
        size = round(FRAME_SECONDS * self.rate)
        probabilities, products = [], []
        self._model.reset_states()
        with torch.inference_mode(), _one_thread:  # a frame is too small to be split between threads
            for frame in _frames(blocks, size, self.num_spks):
                signals = torch.from_numpy(np.ascontiguousarray(frame.T))  # [S, samples]
                probabilities.append(self._model(signals, self.rate)[:, 0].numpy())
                products.append(frame.T.astype(np.float64) @ frame)
        if not products:
            return np.zeros((0, self.num_spks)), np.zeros((0, self.num_spks, self.num_spks))
        return np.stack(probabilities), np.stack(products)

    def _speech_segments(self, probabilities, end):
        found = self._to_segments(probabilities.tolist(), sampling_rate=self.rate, **_SPEECH)
        pairs = ((segment["start"] / self.rate, min(end, segment["end"] / self.rate)) for segment in found)
        return [(round(start, 3), round(stop, 3)) for start, stop in pairs if start < stop]


def _as_array(signal):
    array = signal.detach().cpu().float().numpy() if torch.is_tensor(signal) else np.asarray(signal)
    return array.astype(np.float32, copy=False)


def _frames(blocks, size, num_columns):
    """[size, S] each; the last one is zero-padded."""
    rest = np.empty((0, num_columns), dtype=np.float32)
    for block in blocks:
        rest = np.concatenate((rest, block))
        whole = len(rest) // size * size
        yield from rest[:whole].reshape(-1, size, num_columns)
        rest = rest[whole:]
    if len(rest):
        yield np.pad(rest, ((0, size - len(rest)), (0, 0)))


def _is_leakage(products):
    """Which outputs are only leakage from another one: [F, S, S] → [F, S], bool."""
    num_frames, num_spks, _ = products.shape
    sums = np.concatenate((np.zeros((1, num_spks, num_spks)), products.cumsum(0)))
    first = np.clip(np.arange(num_frames) - _REACH, 0, num_frames)
    last = np.clip(np.arange(num_frames) + _REACH + 1, 0, num_frames)
    near = sums[last] - sums[first]
    energy = np.maximum(np.einsum("fss->fs", near), 0)
    ratio = energy[:, :, None] / np.maximum(energy[:, None, :], 1e-20)  # [F, output, other]
    common = near**2 / np.maximum(energy[:, :, None] * energy[:, None, :], 1e-20)  # squared correlation
    far_below = ratio < 10 ** (_FAR_BELOW_DB / 10)
    softer = ratio < 10 ** (_SOFTER_DB / 10)
    nothing_remains = ratio * (1 - np.minimum(common, 1)) < 10 ** (_REMAINDER_DB / 10)
    return (far_below | (softer & nothing_remains)).any(axis=2)


class _OneThread:
    """Context: PyTorch computes in one thread; afterwards the number of threads is restored.

    Each thread has a number of its own, but a new thread begins with the one that was set last anywhere. So one that
    begins while another one is within the context must not take the 1 for its own: only the first one saves the number.
    """

    def __init__(self) -> None:
        self._lock, self._depth, self._threads = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            threads = torch.get_num_threads()  # always: PyTorch's first call in a thread would undo the next line
            if self._depth == 0:
                self._threads = threads
            torch.set_num_threads(1)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            torch.set_num_threads(self._threads)


_one_thread = _OneThread()


def check_installed() -> None:
    """Raise InputError if silero-vad is not installed. Call it before the first file is separated."""
    if importlib.util.find_spec("silero_vad") is None:
        raise InputError(
            "speech activity is detected with silero-vad, which is not installed: "
            'pip install "mossformer_sb[activity]".'
        )


def _load_silero():
    """A model of Silero VAD, which is stateful, and the function that turns probabilities into segments."""
    check_installed()
    with _one_thread:  # its import sets one thread for the whole process
        from silero_vad import get_speech_timestamps_from_probs, load_silero_vad
    return load_silero_vad(), get_speech_timestamps_from_probs
