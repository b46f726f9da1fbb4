"""Score thresholds of the classes of an image detector, from its card.

The scores of one class may be lower than those of another at the same precision. The setting
`score_thresholds` of a card has the thresholds of such classes at the default min_score of
ImageDetectorConfig. Another min_score changes them in proportion, so that there is one parameter for
all classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.runtime.card import ModelCard

KEY = "score_thresholds"
DEFAULT_MIN_SCORE = ImageDetectorConfig().min_score


class ScoreThresholds:
    """Score thresholds by class.

    class_names: of the detector's results, in the order of their labels.
    """

    def __init__(self, card: ModelCard, class_names: Sequence[str]) -> None:
        """Raises UserError for thresholds of the card that cannot be used."""
        self.class_names = tuple(class_names)
        self._factors = np.ones(len(self.class_names), np.float64)
        values = card.settings.get(KEY, {})
        if not isinstance(values, Mapping):
            raise UserError(f"{card.source}: settings.{KEY}: expected a score by class name")
        for name, value in values.items():
            key = f"{card.source}: settings.{KEY}.{name}"
            if name not in self.class_names:
                raise UserError(f"{key}: allowed: {', '.join(self.class_names)}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0.0 < value <= 1.0:
                raise UserError(f"{key}: allowed: above 0, at most 1; got {value!r}")
            self._factors[self.class_names.index(name)] = value / DEFAULT_MIN_SCORE

    def at(self, min_score: float) -> NDArray[np.float64]:
        """Threshold (classes,) of each class for a value of ImageDetectorConfig.min_score."""
        return np.asarray(np.minimum(self._factors * min_score, 1.0), np.float64)

    def lowest(self, min_score: float) -> float:
        """The lowest of the thresholds."""
        return float(self.at(min_score).min(initial=min_score))
