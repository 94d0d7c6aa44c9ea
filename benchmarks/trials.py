"""Short trainings, compared in a table: `python -m benchmarks.trials results/trials/*`.

One row per output folder of `train.py`: the keys in which its experiment differs from the others, its training time,
and its validation score.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.si_snr import si_snr
from mossformer_sb.sharing.settings import read_settings
from mossformer_sb.training.epoch_stats import TABLE_FILE

HPARAMS_FILE = "hyperparams.yaml"
PLAIN = (str, int, float, bool, list, type(None))
FOLDER_SUFFIX = "_folder"  # of keys that are paths


def read_trial(folder):
    """Settings and epochs of a training.

    Arguments
    ---------
    folder : str or Path
        Its ``output_folder``.

    Returns
    -------
    settings : dict
        Top-level key of the experiment to its plain value.
    epochs : pandas.DataFrame
        One row per epoch.

    Raises
    ------
    InputError
        If the folder has no finished epoch of a training.
    """
    folder = Path(folder)
    for name in (HPARAMS_FILE, TABLE_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: holds no {name}; needed the output_folder of a training with one finished epoch or more."
            )
    values = {key: value for key, value in read_settings(folder / HPARAMS_FILE).items() if isinstance(value, PLAIN)}
    settings = {key: value for key, value in values.items() if not key.endswith(FOLDER_SUFFIX)}
    return settings, pd.read_csv(folder / TABLE_FILE)


def different(trials):
    """Keys whose values are not the same in all trials: list of dict → list of str.

    Example
    -------
    >>> different([{"lr": 0.1, "seed": 1}, {"lr": 0.2, "seed": 1}])
    ['lr']
    """
    keys = dict.fromkeys(key for settings in trials for key in settings)
    return [key for key in keys if any(settings.get(key) != trials[0].get(key) for settings in trials)]


def input_si_snr(manifest, data_folder, num_spks=2, sample_rate=8000):
    """Mean SI-SNR of the mixtures of a manifest, as estimates of each of their sources, in dB."""
    data = MixtureDataset(manifest, data_folder, num_spks=num_spks, sample_rate=sample_rate)
    items = (data[index] for index in range(len(data)))
    found = [si_snr(item.mixture[None, :, None].expand_as(item.sources[None]), item.sources[None]) for item in items]
    return sum(ratios.mean().item() for ratios in found) / len(found)


def table(folders, unprocessed):
    """The trials as a table in Markdown, the best first.

    Arguments
    ---------
    folders : sequence of str or Path
        Output folders.
    unprocessed : float
        SI-SNR of the validation mixtures themselves, in dB.

    Returns
    -------
    str
    """
    found = [read_trial(folder) for folder in folders]
    keys = different([settings for settings, _ in found])
    rows = []
    for folder, (settings, epochs) in zip(folders, found, strict=True):
        tried = ", ".join(f"{key} {settings.get(key)}" for key in keys) or "as in the file"
        best, seconds = epochs["valid_si-snr"].max() - unprocessed, epochs["train_seconds"].sum()
        rows.append((best, f"| {Path(folder).name} | {tried} | {len(epochs)} | {seconds:.0f} | {best:.2f} |"))
    head = ["| trial | settings | epochs | seconds | SI-SNRi, dB |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(line for _, line in sorted(rows, key=lambda row: -row[0]))])


def main(arguments=None):
    """Print the table; 0, or 2 after an error in the user's input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description=__doc__.partition(":")[0])
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="output_folder of a training")
    parser.add_argument("--manifest", required=True, help="manifest of the validation mixtures")
    parser.add_argument("--data_folder", required=True, help="folder of the corpus")
    options = parser.parse_args(arguments)
    try:
        print(table(options.folders, input_si_snr(options.manifest, options.data_folder)))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
