"""The result of a separation as HTML: players, spectrograms, a timeline, downloads."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from mossformer_sb.web.separating import Result

MOST_TICKS = 6  # maximum number of ticks of an axis
_SHOWN_TIMES = 8  # maximum number of segments in an image's description


def result_html(result: Result) -> str:
    """The HTML of a result.

    Arguments
    ---------
    result : mossformer_sb.web.separating.Result

    Returns
    -------
    str
    """
    num_speakers = len(result.tracks) - 1
    speakers = f"{num_speakers} speaker{'' if num_speakers == 1 else 's'}"
    facts = (
        f"{_seconds(result.seconds)} at {result.sample_rate} Hz, separated into {speakers} in "
        f"{_seconds(result.elapsed)} by the model {result.model}."
    )
    parts = [
        '<section class="ms-shown ms-result" aria-label="Result">',
        f'<div class="ms-head"><div><h2>{escape(result.name)}</h2><p>{escape(facts)}</p>{_note(result)}</div>',
        f'<a class="ms-button" href="{_address(result, result.archive)}" download="{escape(result.archive)}">'
        "Download all (zip)</a></div>",
        *(_track(result, number) for number in range(len(result.tracks))),
        _timeline(result),
        _legend(),
        "</section>",
    ]
    return "".join(parts)


def error_html(message: str) -> str:
    """An error message."""
    return f'<div class="ms-shown ms-error" role="alert">{escape(message)}</div>'


def status_html(stage: str, fraction: float | None = None) -> str:
    """The progress.

    Arguments
    ---------
    stage : str
    fraction : float, optional
        Progress of the stage. Default: unknown.

    Returns
    -------
    str

    Example
    -------
    >>> "Separating, 50 %" in status_html("Separating", 0.5)
    True
    """
    text = f"{stage} …" if fraction is None else f"{stage}, {round(100 * fraction)} %"
    value = "" if fraction is None else f' value="{fraction:.3f}"'
    return _note_html(f'{escape(text)}</span><progress max="1"{value} aria-label="{escape(stage)}"></progress>')


def stopped_html() -> str:
    """A note that the separation was stopped."""
    return _note_html("Stopped.</span>")


def _note_html(content):
    return f'<div class="ms-shown ms-status" role="status"><span>{content}</div>'


def _note(result):
    if result.sample_rate <= result.model_rate:
        return ""
    return (
        f'<p class="ms-note">This model works at {result.model_rate} Hz: the outputs have no content above '
        f"{result.model_rate // 2} Hz.</p>"
    )


def _track(result, number):
    track = result.tracks[number]
    address, name = _address(result, track.file), escape(track.name)
    picture = base64.b64encode(track.picture).decode("ascii")
    download = (
        f'<a class="ms-button" href="{address}" download="{escape(track.file)}" '
        f'aria-label="Download {name.lower()}">Download</a>'
        if track.times is not None
        else ""
    )
    return (
        f'<figure class="ms-track ms-colour-{number % 6}" data-seconds="{result.seconds:.3f}">'
        f'<figcaption><h3>{name}</h3><audio controls preload="metadata" src="{address}" aria-label="{name}"></audio>'
        f"{download}</figcaption>"
        f'<div class="ms-plot">{_y_axis(result.highest)}<div class="ms-image">'
        f'<img alt="{escape(_description(result, track))}" src="data:image/png;base64,{picture}">'
        f'<div class="ms-cursor"></div></div>{_x_axis(result.seconds)}</div></figure>'
    )


def _description(result, track):
    text = f"Spectrogram of the {track.name.lower()}" if track.times is None else f"Spectrogram of {track.name.lower()}"
    text += f", 0 to {_seconds(result.seconds)} and 0 to {result.highest / 1000:g} kHz."
    return text if track.times is None else f"{text} {_speaks(track)}"


def _speaks(track):
    """As text."""
    if not track.times:
        return f"{track.name} is silent."
    shown = ", ".join(f"{_clock(start)} to {_clock(end)}" for start, end in track.times[:_SHOWN_TIMES])
    more = len(track.times) - _SHOWN_TIMES
    return f"{track.name} speaks from {shown}{f', and {more} more' if more > 0 else ''}."


def _timeline(result):
    speakers = [(number, track) for number, track in enumerate(result.tracks) if track.times is not None]
    rows = []
    for number, track in speakers:
        bars = "".join(
            f'<i style="left:{100 * start / result.seconds:.3f}%;'
            f'width:{100 * min(end - start, result.seconds - start) / result.seconds:.3f}%"></i>'
            for start, end in track.times
        )
        rows.append(
            f'<div class="ms-row ms-colour-{number % 6}"><span class="ms-y-name" aria-hidden="true">{number}</span>'
            f'<div class="ms-bars" role="img" aria-label="{escape(_speaks(track))}">{bars}</div></div>'
        )
    table = "".join(
        f"<tr><th scope=row>{escape(track.name)}</th><td>{_clock(start)}</td><td>{_clock(end)}</td></tr>"
        for start, end, track in sorted(
            ((start, end, track) for _, track in speakers for start, end in track.times), key=lambda row: row[0]
        )
    )
    return (
        '<figure class="ms-timeline"><figcaption><h3>Who speaks when</h3></figcaption>'
        f"{''.join(rows)}<div class=ms-plot>{_x_axis(result.seconds)}</div>"
        f"<details><summary>The times as a table</summary><div class=ms-table><table><thead><tr><th scope=col>Speaker"
        f"</th><th scope=col>from</th><th scope=col>to</th></tr></thead><tbody>{table}</tbody></table></div></details>"
        "</figure>"
    )


def _legend():
    return (
        '<p class="ms-legend"><span>Level in the spectrograms, one scale for all:</span> <span>−80 dB</span>'
        '<span class="ms-scale" aria-hidden="true"></span><span>0 dB, the loudest</span></p>'
    )


def ticks(end: float) -> list[float]:
    """At most `MOST_TICKS` round values on an axis from 0.

    Arguments
    ---------
    end : float

    Returns
    -------
    list of float

    Example
    -------
    >>> ticks(8.0), ticks(0.07), ticks(95.0)
    ([0.0, 2.0, 4.0, 6.0, 8.0], [0.0, 0.02, 0.04, 0.06], [0.0, 20.0, 40.0, 60.0, 80.0])
    """
    steps = (factor * 10.0**power for power in range(-4, 7) for factor in (1, 2, 5))
    step = next(step for step in steps if end / step < MOST_TICKS)
    return [round(number * step, 6) for number in range(int(end / step + 1e-9) + 1)]


def _x_axis(seconds):
    labels = "".join(
        f'<span{_at_end(tick, seconds)} style="left:{100 * tick / seconds:.3f}%">{_tick(tick, seconds)}</span>'
        for tick in ticks(seconds)
    )
    unit = "s" if seconds < 60 else "minutes:seconds"
    return (
        f'<div class="ms-x" aria-hidden="true">{labels}</div><div class="ms-axis" aria-hidden="true">Time, {unit}</div>'
    )


def _at_end(tick, end):
    """Attribute that keeps a label at the end of an axis within it."""
    return ' class="ms-end"' if tick > 0.97 * end else ""


def _tick(seconds, longest):
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}" if longest >= 60 else f"{seconds:g}"


def _y_axis(highest):
    labels = "".join(
        f'<span{_at_end(1000 * tick, highest)} style="bottom:{100000 * tick / highest:.3f}%">{tick:g}</span>'
        for tick in ticks(highest / 1000)
    )
    return f'<div class="ms-y" aria-hidden="true"><b>kHz</b>{labels}</div>'


def _address(result, file):
    return f"results/{quote(result.token)}/{quote(file)}"


def _seconds(seconds):
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def _clock(seconds):
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)}:{seconds % 60:05.2f}"
