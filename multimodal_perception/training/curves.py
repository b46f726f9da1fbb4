"""How a training went: a table (CSV) and a picture of each figure by step."""

from __future__ import annotations

import csv
import time
from pathlib import Path

SMOOTHED = 0.02  # share of a new value in a drawn loss


class Curves:
    """Figures by step in FOLDER/curves.csv; rows of an earlier run up to `steps_done` are kept.

    hours: of work in all runs.
    """

    def __init__(self, folder: Path, steps_done: int = 0) -> None:
        self._folder = folder
        self._rows: list[tuple[int, str, float]] = []
        self._start, self._before = time.monotonic(), 0.0
        path = folder / "curves.csv"
        if steps_done and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [(int(s), name, float(v)) for s, name, v in csv.reader(file)]
            self._rows = [r for r in rows if r[0] <= steps_done and r[1] != "hours"]
            self._before = max((v for s, n, v in rows if n == "hours"), default=0.0)

    @property
    def hours(self) -> float:
        return self._before + (time.monotonic() - self._start) / 3600

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Figures of one step, by name; what stands before a slash shares an axis."""
        self._rows += [(step, name, value) for name, value in figures.items()]

    def save(self) -> None:
        """Write curves.csv and curves.png."""
        last = self._rows[-1][0] if self._rows else 0
        with (self._folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([*self._rows, (last, "hours", self.hours)])
        self._draw()

    def _draw(self) -> None:
        from matplotlib.figure import Figure

        series: dict[str, list[tuple[int, float]]] = {}
        for step, name, value in self._rows:
            series.setdefault(name, []).append((step, value))
        groups = sorted({name.partition("/")[0] for name in series})
        if not groups:
            return
        figure = Figure(figsize=(6 * len(groups), 4), layout="constrained")
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for axis, group in zip(axes, groups, strict=True):
            for name in sorted(n for n in series if n.partition("/")[0] == group):
                steps, values = zip(*series[name], strict=True)
                axis.plot(steps, _smooth(values), label=name.partition("/")[2] or name)
            axis.set(xlabel="step", title=group)
            axis.grid(alpha=0.3)
            axis.legend()
        figure.savefig(self._folder / "curves.png", dpi=100)


def _smooth(values: tuple[float, ...]) -> list[float]:
    if len(values) < 50:
        return list(values)
    smooth = [values[0]]
    for value in values[1:]:
        smooth.append(smooth[-1] + SMOOTHED * (value - smooth[-1]))
    return smooth
