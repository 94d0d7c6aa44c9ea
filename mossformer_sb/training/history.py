"""Curves of a training, drawn from its table of epochs."""

from mossformer_sb.evaluation import plots

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
    plots.save_png(plots.draw_training(table), path, dpi=120)
