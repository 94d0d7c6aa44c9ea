"""Writing a recording's output from its stored estimates: gains, the rest of the recording, and speech activity.

Shapes: t samples of a block, S speakers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mossformer_sb.data.audio_writing import write_recordings
from mossformer_sb.inference.activity_files import activity_texts
from mossformer_sb.inference.output_files import (
    SeparatedRecording,
    level_db,
    reduction_without_clipping,
    suspects_one_speaker,
    with_mixture,
)
from mossformer_sb.inference.output_gain import LEVELS, LevelMeter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mossformer_sb.data.audio_io import Recording
    from mossformer_sb.inference.activity import ActivityDetector
    from mossformer_sb.inference.block_store import BlockStore
    from mossformer_sb.inference.output_files import Output


def measure(blocks: Iterable[np.ndarray], recording: Recording) -> LevelMeter:
    """`LevelMeter` of estimates, in blocks [t, S], and the recording, which is read again."""
    meter = LevelMeter()
    for block, mixture in with_mixture(blocks, recording):
        meter.add(block, mixture)
    return meter


def write_separated(
    recording: Recording,
    store: BlockStore,
    output: Output,
    folder: str | Path,
    name: str,
    level: str = LEVELS[0],
    detector: ActivityDetector | None = None,
) -> SeparatedRecording:
    """Write the output files of a recording's estimates.

    Arguments
    ---------
    recording : mossformer_sb.data.audio_io.Recording
        It is read again.
    store : mossformer_sb.inference.block_store.BlockStore
        Its estimates.
    output : mossformer_sb.inference.output_files.Output
        The files to write.
    folder : str or Path
        Output folder; the folders of the files must exist.
    name : str
        Name of the files.
    level : str
        As for `mossformer_sb.inference.output_gain.LevelMeter.gain`.
    detector : mossformer_sb.inference.activity.ActivityDetector, optional
        Required where `output` has files of speech activity.

    Returns
    -------
    mossformer_sb.inference.output_files.SeparatedRecording

    Raises
    ------
    InputError
        If the files can't be written. Incomplete files are removed.
    """
    meter = measure(store.blocks(), recording)
    speakers = output.speakers(len(meter.energies))
    columns = [number - 1 for number in speakers]
    gains = np.broadcast_to(meter.gain(level), len(meter.energies))
    scale = _scale_of_rest(meter, level)
    reduction = 1.0
    if output.clips:
        peak = float((meter.peaks * np.abs(gains))[columns].max())
        if output.rest:
            rest = (block[:, -1] for block in _tracks(recording, store, gains, scale, []))
            peak = max(peak, *(float(np.abs(block).max(initial=0.0)) for block in rest))
        reduction = reduction_without_clipping(peak, output, recording.name)
    gains, scale = gains * reduction, scale * reduction
    paths = output.audio_paths(folder, name, len(gains))
    segments = detector.segments(store.blocks(), meter) if detector else None
    activity = output.activity_paths(folder, name) if detector else {}
    texts = activity_texts(segments, name, activity, dict(zip(speakers, paths, strict=False))) if detector else {}
    if output.rest:
        blocks = _tracks(recording, store, gains, scale, columns)
    else:
        blocks = (block[:, columns] * gains[columns].astype(np.float32) for block in store.blocks())
    write_recordings(paths, blocks, recording.sample_rate, output.format, meter.num_samples, output.subtype, texts)
    levels = [level_db(energy, meter.num_samples, gain) for energy, gain in zip(meter.energies, gains, strict=True)]
    return SeparatedRecording(
        recording=recording.name,
        sample_rate=recording.sample_rate,
        num_samples=meter.num_samples,
        speakers=tuple(
            {"speaker": number, "path": path, "level_db": levels[number - 1]}
            for number, path in zip(speakers, paths, strict=False)
        ),
        rest=paths[-1] if output.rest else None,
        softer_db=20 * float(np.log10(1 / reduction)),
        one_speaker_suspected=suspects_one_speaker(meter.energies * meter.gain("speakers") ** 2),
        activity=activity,
        segments=segments,
    )


def _scale_of_rest(meter, level):
    """Gain of the recording before the speakers are subtracted, which brings it to their level."""
    if level in ("mixture", "speakers"):
        return 1.0
    return meter.gain(level) / (meter.gain("mixture") or 1.0)


def _tracks(recording, store, gains, scale, columns):
    """Blocks of some speakers, and as the last column the scaled recording minus all speakers: [t, tracks]."""
    gains = gains.astype(np.float32)
    for block, mixture in with_mixture(store.blocks(), recording):
        block = block * gains
        yield np.column_stack((block[:, columns], np.float32(scale) * mixture - block.sum(1)))
