"""The results of `benchmarks.speed`, as tables in Markdown and as a picture."""

from mossformer_sb.errors import InputError
from mossformer_sb.evaluation import plots


def report(rows, left_out):
    """What `benchmarks.speed` prints: a table for each number of threads, one with a column for each, skipped cases.

    Arguments
    ---------
    rows : list of dict
        From `benchmarks.speed.measure`, each with its ``machine``.
    left_out : list of str

    Returns
    -------
    str
        Markdown.
    """
    parts = []
    for machine in dict.fromkeys(row["machine"] for row in rows):
        parts.append(f"{machine}\n\n{table([row for row in rows if row['machine'] == machine])}\n")
    parts.append(f"{machine_table(rows)}\n")
    if left_out:
        parts.append("Skipped:\n" + "".join(f"- {line}\n" for line in dict.fromkeys(left_out)))
    return "\n".join(parts)


def table(rows):
    """The rows as a table in Markdown.

    Example
    -------
    >>> row = {"size": "S", "task": "inference", "seconds": 4.0, "network": "ours", "precision": "fp32"}
    >>> row.update(seconds_per_call=0.5, real_time_factor=0.125, ratio=3.0, ceiling=0.25, memory=2.5e8)
    >>> row.update(error=2e-6, deviation=118.2)
    >>> print(table([row]))
    | size | task | audio | network | time | real-time factor | ratio | of ceiling | memory | agreement |
    |---|---|---|---|---|---|---|---|---|---|
    | S | inference | 4 s | ours, fp32 | 0.50 s | 0.125 | 3.00 | 50 % | 0.25 GB | 2e-06, 118 dB |
    """
    lines = ["| size | task | audio | network | time | real-time factor | ratio | of ceiling | memory | agreement |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        share = f"{100 * row['ceiling'] / row['seconds_per_call']:.0f} %" if "ceiling" in row else ""
        taken = f"{row['memory'] / 1e9:.2f} GB" if row.get("memory") is not None else ""
        agreement = f"{row['error']:.0e}, {row['deviation']:.0f} dB" if "error" in row else ""
        if row.get("si_snr") is not None and not agreement:
            agreement = f"{row['si_snr']:.0f} dB"
        cells = [row["size"], row["task"], f"{row['seconds']:g} s", f"{row['network']}, {row['precision']}"]
        cells += [f"{row['seconds_per_call']:.2f} s", f"{row['real_time_factor']:.3f}", f"{row['ratio']:.2f}"]
        lines.append(f"| {' | '.join([*cells, share, taken, agreement])} |".replace("|  |", "| |"))
    return "\n".join(lines)


def machine_table(rows):
    """The rows as a table in Markdown with one column for each machine and number of threads.

    Example
    -------
    >>> row = {"size": "S", "task": "inference", "seconds": 4.0, "network": "ours", "precision": "fp32"}
    >>> row.update(seconds_per_call=0.5, ratio=3.0, ceiling=0.25, machine="AMD EPYC, 1 thread, torch 2.11.0")
    >>> print(machine_table([row]))
    | | AMD EPYC, 1 thread, torch 2.11.0 |
    |---|---|
    | S, inference, 4 s: ours, fp32 | 0.50 s, × 3.00, 50 % |
    """
    machines, lines = list(dict.fromkeys(row["machine"] for row in rows)), {}
    for row in rows:
        share = f", {100 * row['ceiling'] / row['seconds_per_call']:.0f} %" if "ceiling" in row else ""
        name = f"{row['size']}, {row['task']}, {row['seconds']:g} s: {row['network']}, {row['precision']}"
        cells = lines.setdefault(name, dict.fromkeys(machines, ""))
        cells[row["machine"]] = f"{row['seconds_per_call']:.2f} s, × {row['ratio']:.2f}{share}"
    found = [f"| | {' | '.join(machines)} |", "|---" * (len(machines) + 1) + "|"]
    return "\n".join(found + [f"| {name} | {' | '.join(cells.values())} |" for name, cells in lines.items()])


def draw(rows, path):
    """Bars of the ratios, one panel per case, as PNG."""
    try:
        figure = plots.new_figure(7, 1)
    except ImportError as error:
        raise InputError(
            '--png is drawn by matplotlib, which is missing: pip install "mossformer_sb[report]", or omit --png.'
        ) from error
    cases = {}
    for row in rows:
        cases.setdefault(f"{row['size']}, {row['task']}, {row['seconds']:g} s", []).append(row)
    figure.set_figheight(1 + sum(0.6 + 0.3 * len(case) for case in cases.values()))
    panels = figure.subplots(len(cases), squeeze=False, sharex=True)[:, 0]
    for panel, (name, case) in zip(panels, cases.items(), strict=True):
        labels = [f"{row['network']}, {row['precision']}" for row in case]
        panel.barh(labels, [row["ratio"] for row in case])
        panel.invert_yaxis()
        panel.set_title(name, loc="left", fontsize="medium")
    panels[-1].set_xlabel(f"times as fast as {rows[0]['network']} in {rows[0]['precision']}")
    plots.save_png(figure, path, dpi=150)
