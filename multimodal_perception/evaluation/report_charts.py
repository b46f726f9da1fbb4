"""Charts of reports as SVG code, drawn with matplotlib. Equal data give equal code."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multimodal_perception.evaluation.html_report import ReportChart
from multimodal_perception.extras import import_package

# Width and height of a chart in inches at 72 pixels per inch.
SIZE = (5.2, 3.7)
# Line styles of the evaluated result and of the one that it is compared with.
STYLES = ("-", "--")


def line_chart(
    title: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    labels: tuple[str, str],
    other: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    diagonal: bool = False,
) -> ReportChart:
    """Lines (x, y) by name over the unit square, such as precision and recall.

    labels: of the x and y axis. other: lines of another result, dashed. diagonal: draw y = x.
    """
    figure, axes = _figure()
    names = sorted({*lines, *(other or {})})
    for style, group in zip(STYLES, (lines, other or {}), strict=True):
        for k, name in enumerate(names):
            if name in group:
                label = name if style == "-" or name not in lines else None
                x, y = (np.array(v, np.float64) for v in group[name])
                marker = "o" if diagonal else None
                text = None if label is None else _plain(label)
                axes.plot(x, y, style, color=f"C{k % 10}", label=text, marker=marker, markersize=3)
    if diagonal:
        axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize=8, loc="best")
    return _chart(title, figure)


def severity_chart(
    title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str
) -> ReportChart:
    """Lines (severity, value) by name, from severity 0 (clean); values above 1.05 are cut off."""
    figure, axes = _figure()
    for k, (name, (x, y)) in enumerate(lines.items()):
        style = STYLES[k // 10 % len(STYLES)]
        axes.plot(x, y, style, color=f"C{k % 10}", label=_plain(name), marker="o", markersize=3)
    axes.set(xlim=(-0.1, 5.1), ylim=(0, 1.05), xlabel="severity", ylabel=label)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=7, loc="best", ncols=2 if len(lines) > 8 else 1)
    return _chart(title, figure)


def bar_chart(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    label: str,
) -> ReportChart:
    """Bars by group and series; NaN has no bar."""
    figure, axes = _figure()
    width = 0.8 / max(len(series), 1)
    position = np.arange(len(groups))
    for k, (name, values) in enumerate(series.items()):
        heights = np.nan_to_num(np.array([_value(v) for v in values]), nan=0.0)
        axes.bar(position + (k - (len(series) - 1) / 2) * width, heights, width, label=_plain(name))
    axes.set_xticks(position, [_plain(g) for g in groups], fontsize=8, rotation=20)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if len(series) > 1:
        axes.legend(fontsize=8)
    return _chart(title, figure)


def histogram(title: str, series: Mapping[str, Sequence[float]], label: str) -> ReportChart:
    """Distribution of values by name, such as times in milliseconds."""
    figure, axes = _figure()
    values = {name: np.array([v for v in map(_value, x) if v == v]) for name, x in series.items()}
    values = {name: x for name, x in values.items() if len(x)}
    if values:
        high = max(float(x.max()) for x in values.values())
        bins = np.linspace(0.0, max(high, 1e-9), 31)
        for name, x in values.items():
            axes.hist(x, bins, alpha=0.6, label=_plain(name))
        axes.legend(fontsize=8)
    axes.set(xlabel=label, ylabel="frames")
    axes.grid(axis="y", alpha=0.3)
    return _chart(title, figure)


def matrix_chart(
    title: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[float]]
) -> ReportChart:
    """A confusion matrix: colours by the fraction of the row, counts as text."""
    figure, axes = _figure((0.62 * len(columns) + 2.2, 0.45 * len(rows) + 1.6))
    values = np.array(counts, np.float64).reshape(len(rows), len(columns))
    total = np.maximum(values.sum(axis=1, keepdims=True), 1.0)
    axes.imshow(values / total, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(len(rows)):
        for j in range(len(columns)):
            shade = "white" if values[i, j] / total[i, 0] > 0.5 else "black"
            axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=shade, size=8)
    axes.set_xticks(range(len(columns)), [_plain(c) for c in columns], fontsize=8, rotation=35)
    axes.set_yticks(range(len(rows)), [_plain(r) for r in rows], fontsize=8)
    axes.set(xlabel="result", ylabel="label")
    return _chart(title, figure)


def _figure(size: tuple[float, float] = SIZE) -> Any:
    figure = import_package("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _chart(title: str, figure: Any) -> ReportChart:
    import matplotlib

    buffer = io.StringIO()
    # Ids of SVG elements are hashes with this salt, else random. The text is drawn as paths, so that the
    # chart needs no font.
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    code = buffer.getvalue()
    return ReportChart(title, code[code.index("<svg") :])


def _plain(text: str) -> str:
    """Text without the characters that matplotlib takes as formulas, and not longer than a legend."""
    return str(text).replace("$", r"\$")[:40]


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)
