"""Images processed in turns, where a frame has more images than the budget of a frame allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class ImageTurns:
    """Selects the images of each frame that are processed: round robin over all sensors.

    counts: images that were not processed in a frame, by `sensor.skipped`; it is updated.
    """

    def __init__(self, max_images: int, counts: Counter[str]) -> None:
        """max_images: maximum number of images per frame; 0 for no limit."""
        self._max_images = max_images
        self._counts = counts
        self._queue: list[str] = []  # sensors, those that have waited longest first

    def select(self, names: Sequence[str]) -> list[str]:
        """The sensors whose images are processed in this frame, in the order of `names`."""
        self._queue = [n for n in names if n not in self._queue] + self._queue
        waiting = [n for n in self._queue if n in names]
        chosen = waiting[: self._max_images] if self._max_images > 0 else waiting
        self._queue = [n for n in self._queue if n not in chosen] + chosen
        for name in names:
            if name not in chosen:
                self._counts[f"{name}.skipped"] += 1
        return [name for name in names if name in chosen]
