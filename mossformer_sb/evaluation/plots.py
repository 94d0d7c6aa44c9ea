"""All plots: scores, training curves, spectrograms. Matplotlib is imported when needed.

Shapes: T samples.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mossformer_sb.errors import InputError
from mossformer_sb.utils.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.figure import Figure

MOST_TICKS = 6  # maximum number of ticks of an axis with long labels
_BLUE, _BLACK = "#4477aa", "#222222"


def check_plots(purpose: str) -> None:
    """Raise InputError if matplotlib is not installed.

    Arguments
    ---------
    purpose : str
        Its purpose, for the message.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            f"{purpose} needs the package matplotlib, which is not installed: pip install 'mossformer_sb[report]'."
        )


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, without pyplot, which would need a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure, dpi: int = 90) -> bytes:
    """The figure as PNG: bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = 90) -> None:
    """Write the figure as a PNG file, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def draw_scores(scores: pd.DataFrame) -> Figure:
    """Histogram of SI-SNRi, and SI-SNRi against the mixture's SI-SNR.

    Arguments
    ---------
    scores : pandas.DataFrame
        One row per mixture, with the columns ``si-snr`` and ``si-snr_i``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2)
    left.hist(scores["si-snr_i"], bins=min(40, max(5, len(scores) // 3)), color=_BLUE)
    left.axvline(scores["si-snr_i"].mean(), color=_BLACK, linestyle="--", label="mean")
    left.set(xlabel="SI-SNRi, dB", ylabel="mixtures")
    left.legend()
    right.scatter(scores["si-snr"] - scores["si-snr_i"], scores["si-snr_i"], s=10, color=_BLUE)
    right.set(xlabel="SI-SNR of the mixture, dB", ylabel="SI-SNRi, dB")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=MOST_TICKS)
    left.yaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_epochs(epochs: pd.DataFrame) -> Figure:
    """SI-SNR and learning rate over the epochs, side by side.

    Arguments
    ---------
    epochs : pandas.DataFrame
        One row per epoch, with the columns ``epoch``, ``train_si-snr``, ``valid_si-snr``, ``lr``, if known.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2)
    for column in ("train_si-snr", "valid_si-snr"):
        if column in epochs:
            left.plot(epochs["epoch"], epochs[column], marker=".", label=column.partition("_")[0])
    left.set(xlabel="epoch", ylabel="SI-SNR, dB")
    left.legend()
    if "lr" in epochs:
        right.plot(epochs["epoch"], epochs["lr"], marker=".", color=_BLACK)
    right.set(xlabel="epoch", ylabel="learning rate")
    for axes in (left, right):
        _number_epochs(axes, epochs)
    return figure


def _number_epochs(axes, epochs):
    """Integer ticks on an axis of epochs."""
    axes.set_xlim(epochs["epoch"].min() - 0.5, epochs["epoch"].max() + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=MOST_TICKS, min_n_ticks=1)


def draw_training(epochs: pd.DataFrame) -> Figure:
    """SI-SNR, learning rate and gradient norms over the epochs, in rows.

    Arguments
    ---------
    epochs : pandas.DataFrame
        As for `draw_epochs`, with ``train_grad-norm`` and ``train_grad-norm-max``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(7, 8)
    scores, rates, norms = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
    panels = {
        scores: ("SI-SNR (dB)", {"train": "train_si-snr", "validation": "valid_si-snr"}),
        rates: ("learning rate", {"learning rate": "lr"}),
        norms: ("gradient norm\nbefore clipping", {"mean": "train_grad-norm", "largest": "train_grad-norm-max"}),
    }
    for axes, (label, curves) in panels.items():
        for name, column in curves.items():
            if column in epochs:
                axes.plot(epochs["epoch"], epochs[column], marker=".", label=name)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0] and len(curves) > 1:
            axes.legend()
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if (epochs.get("train_grad-norm", pd.Series(dtype=float)) > 0).any():
        norms.set_yscale("log")
    norms.set_xlabel("epoch")
    _number_epochs(norms, epochs)
    return figure


def draw_spectrogram(name: str, signal: np.ndarray, sample_rate: int, loudest: float) -> Figure:
    """The spectrogram of one signal.

    Arguments
    ---------
    name : str
        Title of the plot.
    signal : numpy.ndarray
        [T].
    sample_rate : int
        Sample rate in Hz.
    loudest : float
        The magnitude at 0 dB: `largest_magnitude` of all signals with the same scale.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(4.2, 2.2)
    _draw_spectrogram(figure.subplots(), name, signal, sample_rate, loudest)
    return figure


def draw_spectrograms(path: str | Path, signals: Mapping, sample_rate: int) -> Path:
    """Draw the spectrograms of some signals side by side, with the same colour scale.

    Arguments
    ---------
    path : str or Path
        Output file, ``.png``.
    signals : mapping
        Name to samples, [T].
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If matplotlib is not installed.

    Example
    -------
    >>> path = getfixture("tmp_path") / "talk.png"
    >>> draw_spectrograms(path, {"mixture": np.random.randn(8000)}, 8000).read_bytes()[1:4]
    b'PNG'
    """
    check_plots("an image of spectrograms")
    figure = new_figure(4.2 * len(signals), 2.6)
    axes = figure.subplots(1, len(signals), squeeze=False)[0]
    loudest = largest_magnitude(signals.values())
    for place, (name, signal) in zip(axes, signals.items(), strict=True):
        _draw_spectrogram(place, name, signal, sample_rate, loudest)
    path = Path(path)
    save_png(figure, path)
    return path


def largest_magnitude(signals: Iterable[np.ndarray]) -> float:
    """The largest magnitude in the spectrograms of some signals, [T] each."""
    return max(np.abs(_spectrum(signal)).max() for signal in signals)


def _draw_spectrogram(axes, name, signal, sample_rate, loudest):
    levels = 20 * np.log10(np.abs(_spectrum(signal)) / max(loudest, 1e-12) + 1e-5)
    extent = (0, len(signal) / sample_rate, 0, sample_rate / 2000)
    axes.imshow(levels, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=0, cmap="magma")
    axes.set(title=name, xlabel="s", ylabel="kHz")


def _spectrum(signal, window=256):
    """[frequencies, frames]"""
    padded = np.pad(signal, (0, max(0, window - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 2]
    return np.fft.rfft(frames * np.hanning(window)).T
