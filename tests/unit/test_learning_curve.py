"""`python -m benchmarks.learning_curve` draws the epochs of a CSV."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning_curve import draw_curve, main, read_curve
from mossformer_sb import InputError

pytest.importorskip("matplotlib")
CSV = Path(__file__).parents[2] / "docs" / "pretrained_model.csv"


def test_the_models_epochs(tmp_path):
    rows = read_curve(CSV)
    assert rows["minutes"].is_monotonic_increasing and rows["hours"].dropna().is_monotonic_increasing
    axes = draw_curve(rows).axes[0]
    training, validation = (line for line in axes.lines if len(line.get_xdata()) == len(rows))
    np.testing.assert_array_equal(training.get_ydata(), rows["train_si_snr"])
    np.testing.assert_array_equal(validation.get_ydata(), rows["valid_si_snr"])
    main([str(CSV), str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_changes_are_drawn_where_they_begin(tmp_path):
    (tmp_path / "curve.csv").write_text(
        "epoch,minutes,hours,train_si_snr,valid_si_snr,change\n1,30,50,1,0,\n2,60,100,2,1,longer segments\n3,90,,3,2,\n"
    )
    axes = draw_curve(read_curve(tmp_path / "curve.csv")).axes[0]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("longer segments", 30)]


def test_another_csv_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("epoch,lr\n1,0.1\n")
    with pytest.raises(InputError, match="other.csv has the columns epoch,lr; needed: epoch,minutes,hours"):
        read_curve(tmp_path / "other.csv")
