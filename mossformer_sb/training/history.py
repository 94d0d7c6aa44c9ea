"""The course of a training: a table with one row an epoch, and its curves."""

import logging
from pathlib import Path

import pandas as pd

from mossformer_sb.evaluation import plots
from mossformer_sb.utils.files import replacing

logger = logging.getLogger(__name__)

TABLE_FILE = "epochs.csv"
CURVES_FILE = "training_curves.png"


class History:
    """Rows of figures, one an epoch, in ``epochs.csv``, and drawn in ``training_curves.png``.

    Both are written under a temporary name first, so that what lies there is always whole.

    Arguments
    ---------
    folder : str or Path
        Where to.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for epoch, score in ((1, 2.0), (2, 5.5), (2, 5.25)):  # the second was trained twice
    ...     History(folder).add({"epoch": epoch, "valid_si-snr": score})
    >>> (folder / TABLE_FILE).read_text().splitlines()
    ['epoch,valid_si-snr', '1,2', '2,5.25']
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._draws = True

    def add(self, row):
        """Add an epoch, in the place of an earlier row of the same ``epoch``."""
        path = self.folder / TABLE_FILE
        table = pd.DataFrame([row])
        if path.is_file():
            before = pd.read_csv(path)
            table = pd.concat([before[before["epoch"] != row["epoch"]], table], ignore_index=True)
        table = table.sort_values("epoch")
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")

    def draw(self):
        """Draw the curves; without matplotlib, say once what brings it."""
        if not self._draws:
            return
        try:
            figure = plots.draw_training(pd.read_csv(self.folder / TABLE_FILE))
        except ImportError:
            self._draws = False
            logger.warning(
                '%s is drawn by matplotlib, which is missing: pip install "mossformer_sb[report]"', CURVES_FILE
            )
            return
        plots.save_png(figure, self.folder / CURVES_FILE, dpi=120)
