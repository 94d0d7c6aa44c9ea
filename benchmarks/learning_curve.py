"""Draws the learning curve of the package's model: `python -m benchmarks.learning_curve`.

    python -m benchmarks.learning_curve docs/pretrained_model.csv docs/pretrained_model.png

The CSV has a row per epoch: minutes of training and hours of audio so far, mean SI-SNR of training and validation in
dB, and what changed at its beginning, if anything. Cells may be empty.
"""

import argparse

import numpy as np
import pandas as pd

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import plots

COLUMNS = ("epoch", "minutes", "hours", "train_si_snr", "valid_si_snr", "change")


def read_curve(path):
    """The rows of the CSV.

    Raises
    ------
    InputError
        If the file has other columns.
    """
    rows = pd.read_csv(path)
    if tuple(rows.columns) != COLUMNS:
        raise InputError(f"{path} has the columns {','.join(rows.columns)}; needed: {','.join(COLUMNS)}.")
    return rows


def draw_curve(rows):
    """SI-SNR in training and validation by minutes, with the hours of audio above, and the changes as labels.

    Arguments
    ---------
    rows : pandas.DataFrame
        As `read_curve` returns them.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = plots.new_figure(9.0, 4.6)
    axes = figure.subplots()
    for column, label in (("train_si_snr", "training, augmented"), ("valid_si_snr", "validation")):
        axes.plot(rows["minutes"], rows[column], "o-", markersize=3, label=label)
    lowest = axes.get_ylim()[0]
    changes = rows.assign(start=rows["minutes"].shift(fill_value=0)).dropna(subset=["change"])
    for start, change in changes[["start", "change"]].itertuples(index=False):
        axes.axvline(start, color="lightgrey", linewidth=0.8, zorder=0)
        axes.annotate(change, (start, lowest), (2, 3), textcoords="offset points", rotation=90, fontsize="x-small")
    known = rows.dropna(subset=["hours"])
    marks = np.arange(50, known["hours"].max(), 50)
    hours = axes.secondary_xaxis("top")
    hours.set_xticks(np.interp(marks, known["hours"], known["minutes"]), [f"{mark:.0f}" for mark in marks])
    hours.set_xlabel("hours of audio")
    axes.set_xlabel("minutes of training on two CPU cores")
    axes.set_ylabel("mean SI-SNR, dB")
    axes.legend(loc="center right")
    axes.grid(alpha=0.3, axis="y")
    return figure


def main(arguments=None):
    """Read the CSV and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curve", description=__doc__.split("\n\n")[0])
    parser.add_argument("csv", help="the epochs")
    parser.add_argument("png", help="the picture to write")
    options = parser.parse_args(arguments)
    plots.check_plots("the learning curve")
    plots.save_png(draw_curve(read_curve(options.csv)), options.png, dpi=100)


if __name__ == "__main__":
    main()
