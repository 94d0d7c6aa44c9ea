"""The HTML report: scores, published scores for comparison, curves, and audio examples.

All images and audio are embedded in the page, and it has no script: it is a single file. The template is
``report.html.j2`` in this folder.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import plots
from mossformer_sb.evaluation.published import PUBLISHED
from mossformer_sb.evaluation.results import scored
from mossformer_sb.utils.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from mossformer_sb.evaluation.examples import Example

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"
_OURS = "this model"  # name in the list of published models
_LABELS = {"si-snr_i": "SI-SNRi", "sdr_i": "SDRi", "si-snr": "SI-SNR", "sdr": "SDR"}


def check_report() -> None:
    """Raise InputError if a package for the report is not installed."""
    for package in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"the report needs the package {package}, which is not installed: pip install 'mossformer_sb[report]'."
            )


def write_report(
    path: str | Path,
    scores: pd.DataFrame,
    examples: Iterable[Example] = (),
    title: str = "Separation",
    corpus: str = "",
    facts: dict | None = None,
    epochs: pd.DataFrame | None = None,
) -> Path:
    """Write the report.

    Arguments
    ---------
    path : str or Path
        Output file, ``.html``.
    scores : pandas.DataFrame
        From `ScoreTable.to_frame`.
    examples : iterable of Example
        Examples, shown with spectrograms and audio.
    title : str
        Title of the page.
    corpus : str
        One of `PUBLISHED` for a comparison with published results; others have none.
    facts : dict, optional
        Name to value, for a table.
    epochs : pandas.DataFrame, optional
        Statistics of a training, one row per epoch, with columns ``epoch`` and ``train_…``, ``valid_…``.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If matplotlib or jinja2 is not installed, or there is nothing to report.
    """
    check_report()
    rows = scored(scores)
    if rows.empty:
        raise InputError(f"{path}: there is nothing to report: no utterance has scores.")
    page = _template().render(
        title=title,
        facts={name: value for name, value in (facts or {}).items() if value not in ("", None)},
        num_mixtures=len(rows),
        scores=[
            (_LABELS.get(column, column.upper()), _statistics(rows[column])) for column in rows if column != "snt_id"
        ],
        corpus=corpus,
        ranked=_ranked(rows["si-snr_i"].mean(), corpus),
        ours=_OURS,
        distribution=_image(plots.draw_scores(rows)),
        training=_image(plots.draw_epochs(epochs)) if epochs is not None and len(epochs) else None,
        examples=[_example(example) for example in examples],
    )
    path = Path(path)
    write_text(path, page)
    return path


def _template():
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(TEMPLATE)


def _statistics(values):
    return values.mean(), values.median(), values.quantile(0.1)


def _ranked(ours, corpus):
    """Names and SI-SNRi of published results on a corpus and of this model, lowest first; empty if there are none."""
    if corpus not in PUBLISHED:
        return []
    return sorted([*PUBLISHED[corpus].items(), (_OURS, ours)], key=lambda item: item[1])


def _example(example):
    """The template's values for an `Example`: the mixture, then each source with its estimate."""
    rows = [[("mixture", example.mixture)]]
    for number, pair in enumerate(zip(example.sources.T, example.estimates.T, strict=True), start=1):
        rows.append([(f"{name} {number}", signal) for name, signal in zip(("source", "estimate"), pair, strict=True)])
    loudest = plots.largest_magnitude(signal for row in rows for _, signal in row)
    return {
        "title": example.title,
        "rows": [[_picture_and_sound(*signal, example.sample_rate, loudest) for signal in row] for row in rows],
    }


def _picture_and_sound(name, signal, sample_rate, loudest):
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, subtype="PCM_16", format="WAV")
    return {
        "name": name,
        "picture": _image(plots.draw_spectrogram(name, signal, sample_rate, loudest)),
        "sound": _data(buffer.getvalue(), "audio/wav"),
    }


def _image(figure):
    return _data(plots.png(figure), "image/png")


def _data(content, kind):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
