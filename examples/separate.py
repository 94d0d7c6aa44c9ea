"""Separate recordings with an exported model.

    python examples/separate.py MODEL_FOLDER OUTPUT_FOLDER RECORDING [RECORDING ...]

Writes one file per speaker, ``<recording>_spk1.wav`` and so on, at the recording's own sample rate.
"""

import sys

from tqdm import tqdm

from mossformer_sb.errors import InputError
from mossformer_sb.inference import MossFormerSeparation


def main(model_folder, output_folder, *recordings):
    """Separate each recording."""
    model = MossFormerSeparation.from_hparams(source=model_folder)
    for recording in tqdm(recordings, unit="recording"):
        model.separate_file(recording, output_folder=output_folder)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"separate.py: {error}")
