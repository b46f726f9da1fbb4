"""Segmentation of cameras with the thermal image (or LiDAR depth) that sees the same, or of either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.rgb_thermal_inputs import INPUTS, InputMaker, RgbxConfig
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig


class RgbxSegmenter:
    """A Segmenter. counts: images not used, and frames not segmented, by `sensor.reason`.

    A camera without its thermal image is segmented by what it shows alone. A thermal camera whose
    camera is silent, or that has none, is segmented in its own view, under its own name.
    """

    def __init__(
        self,
        config: RgbxConfig | None = None,
        runtime: RuntimeConfig | None = None,
        engine: Engine | None = None,
        card: ModelCard | None = None,
    ) -> None:
        """engine: in the place of the card's own. Raises UserError for a card that does not fit."""
        self.config = config or RgbxConfig()
        card = load_card(self.config.model) if card is None else card
        if tuple(card.inputs) != INPUTS or list(card.outputs) != ["logits"] or not card.classes:
            raise UserError(f"{card.source}: not a network for visible and other images")
        self.engine = open_model(card, runtime) if engine is None else engine
        self.class_names = card.classes
        self.counts: Counter[str] = Counter()
        self._inputs = InputMaker(card, self.config, self.counts)
        # Compiled (or loaded from the cache) now, not at the first frame.
        upsample_labels(np.zeros((1, 1, 1), np.float32), 1.0, np.zeros((1, 1), np.uint8))

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        """A mask by sensor, in its image's size; nothing for a frame without usable images."""
        masks = {}
        for name in self._inputs.chosen(frame):
            labels = self.segment_view(frame, name)
            if labels is not None:
                stamp_ns = frame.readings[name].stamp_ns
                masks[name] = SegmentationMask(name, stamp_ns, labels, self.class_names)
        return masks

    def segment_view(self, frame: SensorFrame, name: str) -> NDArray[np.uint8] | None:
        """Labels (H, W) uint8 in the view of a sensor whose intrinsics and place the frame has.

        Its own image may be missing, where a thermal camera sees the same. None where nothing of
        the view can be used.
        """
        arrays = self._inputs.make(frame, name)
        if arrays is None:
            return None
        try:
            logits = self.engine.run(arrays)["logits"][0]
        except EngineError:
            self.counts[f"{name}.engine"] += 1
            return None
        model = frame.intrinsics[name]
        labels = np.empty((model.height, model.width), np.uint8)
        # Logits are at half the size of the network's input.
        factor = self._inputs.factor(model) / 2.0
        upsample_labels(np.ascontiguousarray(logits.transpose(1, 2, 0)), factor, labels)
        return labels


@numba.njit(cache=True, nogil=True)
def upsample_labels(logits, factor, labels):  # type: ignore[no-untyped-def]
    """Fill labels (H, W) uint8 with the class of the largest logit, bilinear between pixels.

    logits: (h, w, classes) float32. factor: size of a label's pixel in them.
    """
    height, width, classes = logits.shape
    for i in range(labels.shape[0]):
        y = min(max((i + 0.5) * factor - 0.5, 0.0), height - 1.0)
        top = int(y)
        below = min(top + 1, height - 1)
        b = np.float32(y - top)
        for j in range(labels.shape[1]):
            x = min(max((j + 0.5) * factor - 0.5, 0.0), width - 1.0)
            left = int(x)
            right = min(left + 1, width - 1)
            r = np.float32(x - left)
            best, most = 0, np.float32(-np.inf)
            for c in range(classes):
                upper = logits[top, left, c] + r * (logits[top, right, c] - logits[top, left, c])
                lower = logits[below, left, c] + r * (
                    logits[below, right, c] - logits[below, left, c]
                )
                value = upper + b * (lower - upper)
                if value > most:
                    best, most = c, value
            labels[i, j] = best
