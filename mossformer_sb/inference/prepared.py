"""Pre- and post-processing of a recording: pieces at the model's rate and level, and their estimates joined again.

Shapes: T samples of a piece, t samples of a block, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mossformer_sb.data.resampling import check_rates, resample_blocks
from mossformer_sb.errors import InputError
from mossformer_sb.inference.chunking import cut, join
from mossformer_sb.inference.input_level import normalise
from mossformer_sb.inference.output_gain import mapping_gain
from mossformer_sb.network.separator import applies_masks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mossformer_sb.data.audio_io import Recording
    from mossformer_sb.inference.chunking import Chunking
    from mossformer_sb.inference.separation import MossFormerSeparation


class Piece(NamedTuple):
    """Network input: a whole recording, or a chunk of it.

    Attributes
    ----------
    samples : numpy.ndarray
        [T], at the model's rate and level.
    gain : float
        Gain that was applied to the samples.
    start : int
        Start of the piece in the recording, in samples at the model's rate.
    is_last : bool
        Whether it is the last piece of the recording.
    """

    samples: np.ndarray
    gain: float
    start: int
    is_last: bool

    @property
    def is_silent(self) -> bool:
        """Whether the network can be skipped."""
        return not self.samples.any()


class PreparedRecording:
    """A recording, prepared for a model.

    Arguments
    ---------
    recording : mossformer_sb.data.audio_io.Recording
        The recording, which is read once.
    model : mossformer_sb.inference.separation.MossFormerSeparation
        Determines rate, level, speakers and the shortest piece.
    chunking : mossformer_sb.inference.chunking.Chunking
        Whether and how the recording is cut.

    Raises
    ------
    InputError
        If its rate can't be converted to the model's, see `mossformer_sb.data.resampling.check_rates`.
    """

    def __init__(self, recording: Recording, model: MossFormerSeparation, chunking: Chunking) -> None:
        self.recording = recording
        self._model_rate = model.hparams.sample_rate
        check_rates(recording.name, recording.sample_rate, self._model_rate)
        self._input_level = getattr(model.hparams, "input_level", "rms")
        self._num_spks = model.hparams.num_spks
        self._shortest = model.mods.encoder.conv1d.kernel_size[0]
        self._applies_masks = applies_masks(model.mods.masknet)
        self._chunking = chunking
        self._num_read = 0

    def pieces(self) -> Iterator[Piece]:
        """Read the recording.

        Each piece is at one level, see `normalise`, which `blocks` undoes.

        Returns
        -------
        iterator of Piece

        Raises
        ------
        InputError
            If the recording can't be read, or it or its chunks are too short.
        """
        recording, chunking = self.recording, self._chunking
        mixture = resample_blocks(self._centred(), recording.sample_rate, self._model_rate)
        if recording.num_samples is None or recording.num_samples > chunking.above * recording.sample_rate:
            length, overlap = chunking.samples(self._model_rate)
            if length < self._shortest:
                raise InputError(
                    f"chunks of {chunking.seconds:g} s have {length} samples at the model's {self._model_rate} Hz; at "
                    f"least {self._shortest} are needed. Give longer ones (--chunk_seconds)."
                )
            cuts = cut(mixture, length, overlap)
        else:
            cuts = ((0, np.concatenate(list(mixture)), True) for _ in range(1))
        for start, samples, is_last in cuts:
            if len(samples) < self._shortest:
                raise InputError(
                    f"{recording.name}: has {len(samples)} samples at the model's {self._model_rate} Hz; at least "
                    f"{self._shortest} are needed."
                )
            yield Piece(*normalise(samples, self._input_level), start, is_last)

    def blocks(self, separated: Iterable[tuple[Piece, np.ndarray]]) -> Iterator[np.ndarray]:
        """Join the estimates of a recording's pieces.

        Arguments
        ---------
        separated : iterable of (Piece, numpy.ndarray)
            All pieces in their order, each with the network's output for it, [T, S]; None for silence.

        Returns
        -------
        iterator of numpy.ndarray
            [t, S], at the recording's rate, before their common gain.
        """
        rate = self.recording.sample_rate
        levelled = ((piece.start, piece.is_last, self._levelled(piece, estimates)) for piece, estimates in separated)
        _, overlap = self._chunking.samples(self._model_rate)
        num_given = 0
        for block in resample_blocks(join(levelled, overlap), self._model_rate, rate):
            block = block[: self._num_read - num_given]  # resampling twice can give one sample too many
            num_given += len(block)
            yield block

    def _centred(self):
        """The recording without its first block's mean: at its ends, resampling would see an offset as a step."""
        offset = None
        for block in self.recording.blocks():
            self._num_read += len(block)
            offset = block.mean(dtype=np.float64).astype(block.dtype) if offset is None else offset
            yield block - offset

    def _levelled(self, piece, estimates):
        """The estimates [T, S] of a piece at the recording's level."""
        if estimates is None:
            return np.zeros((len(piece.samples), self._num_spks), dtype=np.float32)
        if not self._applies_masks:
            estimates = estimates * np.float32(mapping_gain(estimates, piece.samples))
        return estimates / np.float32(piece.gain)
