"""Separate a recording and draw its spectrograms.

    python examples/spectrogram.py RECORDING OUTPUT_FOLDER [MODEL_FOLDER]

Writes one file per speaker, as ``separate.py`` does, and ``<recording>.png``: spectrograms of the recording and of each
speaker. Without MODEL_FOLDER the model is the packaged one.
"""

import sys
from pathlib import Path

import numpy as np

from mossformer_sb.data.audio_io import Recording
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.plots import draw_spectrograms
from mossformer_sb.evaluation.report import check_report
from mossformer_sb.inference import MossFormerSeparation


def main(recording, output_folder, model_folder=None):
    """Separate the recording and draw the picture; returns its path."""
    check_report()
    model = MossFormerSeparation.from_hparams(model_folder)
    estimates = model.separate_file(recording, output_folder=output_folder).T.numpy()
    opened = Recording(recording)
    signals = {"mixture": np.concatenate(list(opened.blocks()))}
    signals |= {f"speaker {number}": estimate for number, estimate in enumerate(estimates, start=1)}
    path = Path(output_folder) / f"{Path(recording).stem}.png"
    return draw_spectrograms(path, signals, opened.sample_rate)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        print(f"The picture is {main(*sys.argv[1:])}")
    except InputError as error:
        sys.exit(f"spectrogram.py: {error}")
