"""Curves of a training, drawn from its table of epochs."""

import pandas as pd

from mossformer_sb.utils.files import replacing

CURVES_FILE = "training_curves.png"


def draw_curves(table, path):
    """Draw scores, learning rate and gradient norm over the epochs.

    Arguments
    ---------
    table : pandas.DataFrame
        One row per epoch, with the columns of ``epochs.csv``; curves of absent columns are skipped.
    path : str or Path
        A PNG file, written atomically.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 8), layout="constrained")
    _draw(table, figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw(table, figure):
    scores, rates, norms = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
    panels = {
        scores: ("SI-SNR (dB)", {"train": "train_si-snr", "validation": "valid_si-snr"}),
        rates: ("learning rate", {"learning rate": "lr"}),
        norms: ("gradient norm\nbefore clipping", {"mean": "train_grad-norm", "largest": "train_grad-norm-max"}),
    }
    for axes, (label, curves) in panels.items():
        for name, column in curves.items():
            if column in table:
                axes.plot(table["epoch"], table[column], marker=".", label=name)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0] and len(curves) > 1:
            axes.legend()
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if (table.get("train_grad-norm", pd.Series(dtype=float)) > 0).any():
        norms.set_yscale("log")
    norms.set_xlabel("epoch")
    norms.xaxis.get_major_locator().set_params(integer=True)
