"""The learned near field in the pipeline: what its network says of a frame, as evidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.near_field.network_inputs import CELLS, RESOLUTION, NearFieldInputs
from multimodal_perception.occupancy.cells import Cells
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig


@dataclass(frozen=True)
class NearFieldConfig:
    """The learned near field, for rigs with fisheyes.

    model: name or path of its card; empty for none. length, width: of the vehicle; nothing is said of
    its own place. kerbs: whether they count as occupied; else nothing is said of them.
    """

    model: str = ""
    length: float = field(default=4.5, metadata={"min": 0.0, "max": 14.0, "unit": "m"})
    width: float = field(default=1.8, metadata={"min": 0.0, "max": 14.0, "unit": "m"})
    kerbs: bool = True


class NearFieldSource:
    """Fisheyes and ultrasonics of a frame to masses and classes of 72 x 72 cells of 0.2 m.

    A frame without fisheyes says nothing: the cones of the ultrasonics are the better model then.
    counts: cameras not used, and engine_failed.
    """

    def __init__(self, config: NearFieldConfig, runtime: RuntimeConfig | None = None) -> None:
        """Raises UserError for a card that cannot be used, or when no engine runs it."""
        self.config = config
        card = load_card(config.model)
        if not card.classes or card.classes[0] != "free" or set(card.classes) - set(SEMANTIC_LAYER):
            allowed = ", ".join(SEMANTIC_LAYER)
            raise UserError(f"{card.source}: classes: free first, then others of {allowed}")
        self._engine = open_model(card, runtime)
        self._inputs = NearFieldInputs()
        self._numbers = np.array([SEMANTIC_LAYER.index(name) for name in card.classes], np.uint8)
        x, y = Cells.around_base(CELLS, RESOLUTION).middles(*np.mgrid[0:CELLS, 0:CELLS])
        self._own = (np.abs(x) < config.length / 2) & (np.abs(y) < config.width / 2)
        self._failures: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        return self._inputs.counts + self._failures

    def update(self, frame: SensorFrame) -> OccupancyGrid | None:
        """The near field of one frame in base_link; None where no fisheye looks or no engine runs."""
        arrays = self._inputs.arrays(frame)
        if arrays is None or not self._inputs.fisheyes(frame):
            return None
        try:
            answer = self._engine.run(arrays)
        except EngineError:
            self._failures["engine_failed"] += 1
            return None
        evidence = answer["evidence"][0]
        belief = evidence / (evidence.sum(axis=0) + len(evidence))  # Han et al. 2021, eq. 4
        # Of cells that no sensor reaches the network has learnt nothing.
        blind = (answer["looked"][0] == 0) & ~arrays["sound"][0].any(axis=0) | self._own
        belief[:, blind] = 0.0
        semantic = self._numbers[1 + belief[1:].argmax(axis=0)]
        if not self.config.kerbs:
            belief[self._numbers == SEMANTIC_LAYER.index("kerb")] = 0.0
        occupied = belief[1:].sum(axis=0)
        semantic[occupied <= belief[0]] = 0
        corner = -CELLS * RESOLUTION / 2
        return OccupancyGrid(
            frame.stamp_ns,
            frame.base_frame,
            RESOLUTION,
            (corner, corner),
            np.ascontiguousarray(belief[0]),
            occupied,
            semantic=semantic,
        )
