"""One page to look at and to listen to: scores against the published ones, curves, and examples with sound.

The page holds all its pictures and sounds itself, and no script: it can be sent as it is.

Shapes: T samples, S speakers.
"""

import base64
import html
import importlib.util
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from mossformer_sb.data.audio_io import read_audio
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.results import AUDIO_FOLDER, AVERAGE, RESULTS_FILE, example_stem
from mossformer_sb.evaluation.si_snr import best_permutation, pairwise_si_snr, reorder
from mossformer_sb.inference.output_gain import mixture_gain, peak_gain
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.folder import RECORD_FILE, TrainingRecord
from mossformer_sb.training.history import TABLE_FILE
from mossformer_sb.utils.files import replacing, write_text

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
TEST_MANIFEST = "test_manifest.csv"  # of the mixtures in the table of scores
LONGEST_EXAMPLE = 10.0  # seconds of an example that the page holds
# SI-SNRi in dB on the test sets at 8 kHz, min, from Zhao and Ma, ICASSP 2023 (DM: with dynamic mixing).
PUBLISHED = {
    "WSJ0-2mix": {
        "Conv-TasNet": 15.3,
        "DPRNN": 18.8,
        "MossFormer(S)": 20.9,
        "Wavesplit + DM": 22.2,
        "SepFormer + DM": 22.3,
        "MossFormer(M) + DM": 22.5,
        "MossFormer(L) + DM": 22.8,
    },
    "WSJ0-3mix": {
        "Conv-TasNet": 12.7,
        "Wavesplit + DM": 17.8,
        "SepFormer + DM": 19.5,
        "MossFormer(L) + DM": 21.2,
    },
    "WHAM!": {"Wavesplit + DM": 16.0, "SepFormer + DM": 16.4, "MossFormer(L) + DM": 17.3},
    "WHAMR!": {"Wavesplit + DM": 13.2, "SepFormer + DM": 14.0, "MossFormer(L) + DM": 16.3},
}
_PUBLISHED_FOR = {  # what else a test has to be to be compared with these
    "WSJ0-2mix": {"task": "separate_clean"},
    "WSJ0-3mix": {"task": "separate_clean"},
    "WHAM!": {"task": "separate_noisy"},
    "WHAMR!": {"task": "separate_noisy_reverb", "target": "anechoic"},
}
_LABELS = {"si-snr_i": "SI-SNRi", "sdr_i": "SDRi", "si-snr": "SI-SNR", "sdr": "SDR"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .8rem; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.ours { font-weight: bold; }
figure { display: inline-block; margin: .5rem; vertical-align: top; }
figure img { display: block; max-width: 100%; }
figure audio { display: block; width: 100%; margin-top: .25rem; }
"""


@dataclass
class Example:
    """An utterance for the page; each estimate stands in the place of its source."""

    title: str
    mixture: np.ndarray  # [T]
    sources: np.ndarray  # [T, S]
    estimates: np.ndarray  # [T, S]
    sample_rate: int

    @classmethod
    def of(cls, title, mixture, sources, estimates, sample_rate):
        """From tensors, estimates in any order and at any level; only the first seconds are kept.

        Example
        -------
        >>> sources = torch.randn(8000, 2)
        >>> example = Example.of("best", sources.sum(1), sources, 3 * sources.flip(1), 8000)
        >>> bool(np.allclose(example.estimates, example.sources, atol=1e-4))
        True
        """
        permutation = best_permutation(pairwise_si_snr(estimates[None], sources[None]))
        estimates = reorder(estimates[None], permutation)[0]
        estimates = estimates * mixture_gain(estimates, mixture)
        gain = peak_gain(mixture, sources, estimates)
        kept = slice(round(LONGEST_EXAMPLE * sample_rate))
        return cls(title, *((gain * x[kept]).numpy() for x in (mixture, sources, estimates)), sample_rate)


def check_report():
    """Raise InputError if what draws the pictures is absent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "the report needs the package matplotlib, which is not here: pip install 'mossformer_sb[report]'."
        )


def comparable_corpus(hparams):
    """The corpus of an experiment, if its test is the published one in task, rate and mode; else nothing.

    Example
    -------
    >>> hparams = {"corpus": "WHAM!", "task": "separate_noisy", "sample_rate": 8000, "mode": "min"}
    >>> comparable_corpus(hparams), comparable_corpus({**hparams, "task": "separate_clean"})
    ('WHAM!', '')
    """
    corpus = hparams["corpus"]
    needed = {"sample_rate": 8000, "mode": "min", **_PUBLISHED_FOR.get(corpus, {})}
    same = all(hparams.get(key) == value for key, value in needed.items())
    return corpus if corpus in PUBLISHED and same else ""


def pick_examples(scores):
    """The IDs of the best, the median and the worst utterance by SI-SNRi.

    Arguments
    ---------
    scores : pandas.DataFrame
        From `ScoreTable.to_frame`.

    Returns
    -------
    dict
        "best", "median" and "worst" to an ID; fewer if there are fewer utterances.

    Example
    -------
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"snt_id": ["a", "b", "c", "avg"], "si-snr_i": [3.0, 9.0, 5.0, 5.7]})
    >>> pick_examples(scores)
    {'best': 'b', 'median': 'c', 'worst': 'a'}
    """
    ranked = _scored(scores).sort_values("si-snr_i", ascending=False)["snt_id"].tolist()
    if not ranked:
        return {}
    picked = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    return dict(list(picked.items())[: len(ranked)])


def example_of_row(title, row, num_spks, separate):
    """Make an `Example` of a row of a manifest.

    Arguments
    ---------
    title : str
    row : mapping
        ``ID``, ``mix_wav``, ``s1_wav`` and so on, complete paths.
    num_spks : int
        S.
    separate : callable
        [1, T] → [1, T, S].

    Returns
    -------
    Example
    """
    paths = [row["mix_wav"], *(row[f"s{number + 1}_wav"] for number in range(num_spks))]
    signals = [read_audio(path) for path in paths]
    mixture, *sources = (torch.from_numpy(samples) for samples, _ in signals)
    estimates = separate(mixture[None])[0].float().cpu()
    return Example.of(f"{title}: {row['ID']}", mixture, torch.stack(sources, -1), estimates, signals[0][1])


def write_report(path, scores, examples=(), title="Separation", corpus="", facts=None, epochs=None):
    """Write the page.

    Arguments
    ---------
    path : str or Path
        Where to, ``.html``.
    scores : pandas.DataFrame
        From `ScoreTable.to_frame`.
    examples : iterable of Example
        With pictures and sound.
    title : str
        The page's.
    corpus : str
        One of `PUBLISHED` to compare with; others have nothing to compare with.
    facts : dict, optional
        Name to value, for a table.
    epochs : pandas.DataFrame, optional
        The course of a training, one row an epoch, with columns ``epoch`` and ``train_…``, ``valid_…``.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If matplotlib is absent, or there is nothing to report.
    """
    check_report()
    rows = _scored(scores)
    if rows.empty:
        raise InputError(f"{path}: there is nothing to report: no utterance has scores.")
    parts = [f"<h1>{html.escape(title)}</h1>", _facts(facts or {}), _headline(rows, corpus), _distribution(rows)]
    if epochs is not None and len(epochs):
        parts.append(_curves(epochs))
    parts += [_example(example) for example in examples]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    path = Path(path)
    write_text(path, page)
    return path


def report_training(training_folder, export_folder=None, device="cpu", path=None):
    """Write the report of a training from what it left in its output folder, without testing again.

    The examples are separated by the exported model, where the test set is at hand; otherwise they are of the mixtures
    that the evaluation kept as audio.

    Arguments
    ---------
    training_folder : str or Path
        The experiment's ``output_folder``, after an evaluation.
    export_folder : str or Path, optional
        The model. Default: ``export`` in that folder.
    device : str
        Where to separate the examples.
    path : str or Path, optional
        Where to. Default: ``report.html`` in that folder.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the folder holds no evaluation, or matplotlib is absent.
    """
    check_report()
    folder = Path(training_folder)
    results = folder / RESULTS_FILE
    if not results.is_file():
        raise InputError(
            f"{folder}: holds no {RESULTS_FILE}, so there is no evaluation to report. Give the output_folder of a "
            f"training that was evaluated; --test_only does that alone."
        )
    scores = pd.read_csv(results, dtype={"snt_id": str})
    record = TrainingRecord.read(folder)
    examples = _training_examples(folder, export_folder or folder / "export", record, scores, device)
    facts = {
        "Task": record.task,
        "Corpus": record.corpus,
        "Data": record.data,
        "Command": record.command,
        "Evaluated by": record.test_command,
    }
    epochs = pd.read_csv(folder / TABLE_FILE) if (folder / TABLE_FILE).is_file() else None
    title, published = record.experiment or folder.name, record.test_set.get("published_for", "")
    path = write_report(path or folder / REPORT_FILE, scores, examples, title, published, facts, epochs)
    logger.info("The report is %s", path)
    return path


def _training_examples(folder, export_folder, record, scores, device):
    """Of the test set, if its recordings and the model are there; else of the audio that is there."""
    manifest, data_root = folder / TEST_MANIFEST, record.test_set.get("data_root")
    try:
        if data_root is None:
            raise InputError(f"{folder / RECORD_FILE}: does not say where the test set is.")
        model = MossFormerSeparation.from_hparams(export_folder, device=device)
        rows = read_manifest(manifest, data_root).set_index("ID", drop=False)
        return [
            example_of_row(title, rows.loc[utterance_id], model.hparams.num_spks, model.separate_batch)
            for title, utterance_id in pick_examples(scores[scores["snt_id"].isin([*rows["ID"], AVERAGE])]).items()
        ]
    except InputError as error:
        logger.warning("The examples are of %s, and not of the whole test set: %s", folder / AUDIO_FOLDER, error)
    kept = {example_stem(name): name for name in scores["snt_id"]}
    kept = [name for stem, name in kept.items() if (folder / AUDIO_FOLDER / f"{stem}_mix.wav").is_file()]
    picked = pick_examples(scores[scores["snt_id"].isin(kept)])
    return [_kept_example(title, folder / AUDIO_FOLDER, name) for title, name in picked.items()]


def _kept_example(title, folder, utterance_id):
    stem = example_stem(utterance_id)
    mixture, rate = read_audio(folder / f"{stem}_mix.wav")
    signals = []
    for kind in ("source", "estimate"):
        number, found = 1, []
        while (path := folder / f"{stem}_{kind}{number}.wav").is_file():
            found.append(torch.from_numpy(read_audio(path)[0]))
            number += 1
        if not found:
            raise InputError(f"{folder}: holds {stem}_mix.wav, but no {stem}_{kind}1.wav. Was it copied as a whole?")
        signals.append(torch.stack(found, -1))
    return Example.of(f"{title}: {utterance_id}", torch.from_numpy(mixture), *signals, rate)


def _scored(scores):
    return scores[scores["snt_id"] != AVERAGE].dropna(subset=["si-snr_i"])


def _facts(facts):
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value not in ("", None)
    )
    return f"<table>{rows}</table>" if rows else ""


def _headline(rows, corpus):
    columns = [column for column in rows if column != "snt_id"]
    body = "".join(
        f"<tr><td>{html.escape(_LABELS.get(column, column.upper()))}</td>"
        + "".join(
            f'<td class="number">{value:.2f}</td>'
            for value in (rows[column].mean(), rows[column].median(), rows[column].quantile(0.1))
        )
        + "</tr>"
        for column in columns
    )
    table = (
        f"<h2>Scores of {len(rows)} mixtures</h2><table><tr><th></th><th>mean</th><th>median</th>"
        f"<th>10th percentile</th></tr>{body}</table>"
        f"<p>SI-SNR and SDR, and their improvement over the mixture, in dB.</p>"
    )
    return table + _comparison(rows["si-snr_i"].mean(), corpus)


def _comparison(ours, corpus):
    if corpus not in PUBLISHED:
        return ""
    ranked = sorted([*PUBLISHED[corpus].items(), ("this model", ours)], key=lambda item: item[1])
    classes = {"this model": ' class="ours"'}
    body = "".join(
        f'<tr{classes.get(name, "")}><td>{html.escape(name)}</td><td class="number">{value:.1f}</td></tr>'
        for name, value in ranked
    )
    return (
        f"<h2>Against what is published on {html.escape(corpus)}</h2><table><tr><th></th><th>SI-SNRi, dB</th></tr>"
        f"{body}</table>"
        f"<p>Published: test set, 8 kHz, min; Zhao and Ma, ICASSP 2023. DM: trained with dynamic mixing.</p>"
    )


def _distribution(rows):
    figure, (left, right) = _figure(2, size=(11, 3.6))
    left.hist(rows["si-snr_i"], bins=min(40, max(5, len(rows) // 3)), color="#4477aa")
    left.axvline(rows["si-snr_i"].mean(), color="#222222", linestyle="--", label="mean")
    left.set(xlabel="SI-SNRi, dB", ylabel="mixtures")
    left.legend()
    right.scatter(rows["si-snr"] - rows["si-snr_i"], rows["si-snr_i"], s=10, color="#4477aa")
    right.set(xlabel="SI-SNR of the mixture, dB", ylabel="SI-SNRi, dB")
    return "<h2>Distribution</h2>" + _image(figure, "histogram of SI-SNRi, and SI-SNRi over the mixture's SI-SNR")


def _curves(epochs):
    figure, (left, right) = _figure(2, size=(11, 3.6))
    for column in ("train_si-snr", "valid_si-snr"):
        if column in epochs:
            left.plot(epochs["epoch"], epochs[column], marker=".", label=column.partition("_")[0])
    left.set(xlabel="epoch", ylabel="SI-SNR, dB")
    left.legend()
    if "lr" in epochs:
        right.plot(epochs["epoch"], epochs["lr"], marker=".", color="#222222")
    right.set(xlabel="epoch", ylabel="learning rate")
    for axes in (left, right):
        axes.locator_params(axis="x", integer=True)
    return "<h2>Training</h2>" + _image(figure, "SI-SNR and learning rate over the epochs")


def _example(example):
    """The mixture, and below it each source beside its estimate."""
    rows = [[("mixture", example.mixture)]]
    for number, pair in enumerate(zip(example.sources.T, example.estimates.T, strict=True), start=1):
        rows.append([(f"{name} {number}", signal) for name, signal in zip(("source", "estimate"), pair, strict=True)])
    loudest = max(np.abs(_spectrum(signal)).max() for row in rows for _, signal in row)
    figures = "".join(
        f"<div>{''.join(_picture_and_sound(*signal, example.sample_rate, loudest) for signal in row)}</div>"
        for row in rows
    )
    return f"<h2>{html.escape(example.title)}</h2>{figures}"


def draw_spectrograms(path, signals, sample_rate):
    """Draw the spectrograms of some signals beside each other, on one scale of levels.

    Arguments
    ---------
    path : str or Path
        Where to, ``.png``.
    signals : mapping
        Name to samples, [T].
    sample_rate : int
        Hz.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If matplotlib is absent.

    Example
    -------
    >>> path = getfixture("tmp_path") / "talk.png"
    >>> draw_spectrograms(path, {"mixture": np.random.randn(8000)}, 8000).read_bytes()[1:4]
    b'PNG'
    """
    check_report()
    figure, axes = _figure(len(signals), size=(4.2 * len(signals), 2.6))
    loudest = max(np.abs(_spectrum(signal)).max() for signal in signals.values())
    for place, (name, signal) in zip(np.atleast_1d(axes), signals.items(), strict=True):
        _draw(place, name, signal, sample_rate, loudest)
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    return path


def _draw(axes, name, signal, sample_rate, loudest):
    levels = 20 * np.log10(np.abs(_spectrum(signal)) / max(loudest, 1e-12) + 1e-5)
    extent = (0, len(signal) / sample_rate, 0, sample_rate / 2000)
    axes.imshow(levels, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=0, cmap="magma")
    axes.set(title=name, xlabel="s", ylabel="kHz")


def _picture_and_sound(name, signal, sample_rate, loudest):
    figure, axes = _figure(1, size=(4.2, 2.2))
    _draw(axes, name, signal, sample_rate, loudest)
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, subtype="PCM_16", format="WAV")
    sound = f'<audio controls preload="auto" src="{_data(buffer.getvalue(), "audio/wav")}"></audio>'
    return f"<figure>{_image(figure, f'spectrogram of {name}')}{sound}</figure>"


def _spectrum(signal, window=256):
    """[frequencies, frames]"""
    padded = np.pad(signal, (0, max(0, window - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 2]
    return np.fft.rfft(frames * np.hanning(window)).T


def _figure(num_columns, size):
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, num_columns)


def _image(figure, description):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return f'<img alt="{html.escape(description)}" src="{_data(buffer.getvalue(), "image/png")}">'


def _data(content, kind):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
