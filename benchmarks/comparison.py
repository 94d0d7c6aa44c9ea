"""MossFormer, Conv-TasNet and SepFormer after the same CPU time on the same speech: `python -m benchmarks.comparison`.

    OMP_NUM_THREADS=1 python -m benchmarks.comparison results/comparison --data_folder corpus

The corpus is that of many speakers; training mixes its clips dynamically, two clean speakers at a time. Each network is
trained with each learning rate for a few minutes, and for an hour with each of the two best ones by validation SI-SNR,
since the best of a few minutes may be too high for an hour. The better of these two is tested, on unseen speakers.
Minutes are CPU time of the training process, so that other load on the machine has no influence. An interrupted run
resumes with the same command.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm

import train
from data_prep.corpora.many_speakers_sources import PREFIX, SAMPLE_RATE
from mossformer_sb.errors import InputError
from mossformer_sb.training import step
from mossformer_sb.training.epoch_stats import TABLE_FILE

# Each of about 2.3 M parameters. Frames of 8 ms with a hop of 4 ms halve the cost of all three.
NETWORKS = {
    "MossFormer": "hparams/mossformer_custom.yaml --model_size small --dropout 0",
    "Conv-TasNet": "hparams/baselines/convtasnet.yaml --channels 192 --bottleneck_channels 128 --hidden_channels 256 "
    "--skip_channels 128 --encoder_kernel_size 64",
    "SepFormer": "hparams/baselines/sepformer.yaml --channels 192 --num_layers 1 --num_intra_layers 3 "
    "--num_inter_layers 3 --num_heads 8 --ffn_dim 512 --chunk_size 64 --encoder_kernel_size 64 --dropout 0",
}
COMMON = (
    f"--corpus custom --task separate --mode null --sample_rate {SAMPLE_RATE} --dynamic_mixing "
    "--level_distribution librimix --speed_perturb continuous --mixtures_per_epoch 1000000 --batch_size 4 "
    "--segment 2.6 --num_workers 1 --optimizer adam --schedule one_cycle --warmup_share 0.02 --decay_share 0.4 "
    "--ema_decay 0.998 --max_grad_norm 5 --n_audio_to_save 0 --device cpu --noprogressbar --ckpt_interval_minutes 5"
)
RATES = (3e-4, 1e-3, 3e-3)
NUM_FINALISTS = 2
ROOT = Path(train.__file__).resolve().parent


class CPUClock:
    """Seconds of CPU time of this process, instead of `mossformer_sb.training.budget.RunningClock`."""

    def seconds(self):
        """Seconds."""
        return time.process_time()


def write_mixtures(data_folder, target):
    """Write the list of the corpus's clean mixtures, as the ``csv_file`` of `mossformer_custom.yaml`."""
    data_folder, rows = Path(data_folder), []
    for split in ("tr", "cv", "tt"):
        for mixture in sorted((data_folder / split / "clean" / "mix").glob("*.wav")):
            files = {f"{part}_wav": f"{split}/clean/{part}/{mixture.name}" for part in ("mix", "s1", "s2")}
            rows.append({"ID": mixture.stem, "split": split, **files})
    pd.DataFrame(rows).to_csv(target, index=False)


def run(folder, network, rate, minutes, data_folder, mixtures):
    """Train and test a network, unless that is done; return the output folder."""
    if not (folder / "test_results.csv").is_file():
        experiment, *options = NETWORKS[network].split()
        common = COMMON.split()
        if network == "MossFormer":  # the experiment has one corpus
            common = common[common.index("--sample_rate") :]
        named = {
            "data_folder": data_folder,
            "csv_file": mixtures,
            "speech_folder": Path(data_folder) / "lists" / "tr.csv",
            "output_folder": folder,
            "lr": rate,
            "train_minutes": minutes,
            "epoch_minutes": max(1, minutes / 6),
        }
        options += common + [word for key, value in named.items() for word in (f"--{key}", str(value))]
        train.main([str(ROOT / experiment), *options])
    return folder


def validation(folder):
    """The best validation SI-SNR of a run, dB."""
    return pd.read_csv(folder / TABLE_FILE)["valid_si-snr"].max()


def _check_settings(results, settings):
    """Create the folder; refuse one with runs of other settings, whose scores would be taken for these."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / "settings.json"
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise InputError(f"{path}: runs here have {path.read_text()}, not {json.dumps(settings)}. Give another folder.")
    path.write_text(json.dumps(settings))


def compare(results, data_folder, minutes, trial_minutes, networks):
    """Run the trials, then the long runs of each network; return the rows of the table.

    Returns
    -------
    list of dict
        ``network``, ``trials`` and ``finals`` (learning rate → dB of validation), ``lr``, ``si_snr_i``,
        ``standard_error``, ``sdr_i``, ``number``
    """
    _check_settings(
        results, {"data_folder": str(Path(data_folder).resolve()), "minutes": minutes, "trial": trial_minutes}
    )
    mixtures = results / "clean.csv"
    if not mixtures.is_file():
        write_mixtures(data_folder, mixtures)
    rows = []
    for network in tqdm(networks, unit="network", disable=None):
        trials = {
            rate: validation(run(results / f"{network}-{rate:g}", network, rate, trial_minutes, data_folder, mixtures))
            for rate in RATES
        }
        folders = {
            rate: run(results / f"{network}-{rate:g}-long", network, rate, minutes, data_folder, mixtures)
            for rate in sorted(trials, key=trials.get)[-NUM_FINALISTS:]
        }
        finals = {rate: validation(folder) for rate, folder in folders.items()}
        best = max(finals, key=finals.get)
        scores = pd.read_csv(folders[best] / "test_results.csv").iloc[:-1]  # the last row is the mean
        gains = scores["si-snr_i"].astype(float)
        rows.append(
            {
                "network": network,
                "trials": trials,
                "finals": finals,
                "lr": best,
                "si_snr_i": gains.mean(),
                "standard_error": statistics.stdev(gains) / math.sqrt(len(gains)),
                "sdr_i": scores["sdr_i"].astype(float).mean(),
                "number": len(gains),
            }
        )
    return rows


def table(rows):
    """The comparison in Markdown."""
    lines = ["| network | validation of the trials | of the long runs | chosen rate | SI-SNRi | SDRi |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        trials, finals = (
            ", ".join(f"{rate:g}: {score:.2f}" for rate, score in sorted(row[key].items()))
            for key in ("trials", "finals")
        )
        lines.append(
            f"| {row['network']} | {trials} dB | {finals} dB | {row['lr']:g} | {row['si_snr_i']:.2f} ± "
            f"{row['standard_error']:.2f} dB | {row['sdr_i']:.2f} dB |"
        )
    return "\n".join(lines)


def main(arguments=None):
    """Run the missing trainings, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__.partition(":")[0])
    parser.add_argument("results", type=Path, help="folder of the runs")
    parser.add_argument("--data_folder", required=True, help=f"the corpus of many speakers, {PREFIX}")
    parser.add_argument("--minutes", type=float, default=60, help="of CPU time of each long run (default: %(default)s)")
    parser.add_argument("--trial_minutes", type=float, default=10, help="of each trial (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: all)")
    options = parser.parse_args(arguments)
    step.RunningClock = CPUClock
    rows = compare(options.results, str(options.data_folder), options.minutes, options.trial_minutes, options.networks)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
