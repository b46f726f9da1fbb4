"""Near-field stage: runs the near-field network and returns its evidence as a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.near_field.network_inputs import (
    CAMERAS,
    CELLS,
    INPUT_SHAPES,
    PIXEL_MEAN,
    PIXEL_STD,
    RESOLUTION,
    NearFieldInputs,
)
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.perception import OccupancyGrid, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import (
    SensorUse,
    limited,
    merged,
    of_modalities,
    training_rig_notes,
)


@dataclass(frozen=True)
class NearFieldConfig:
    """Parameters of the near-field network, for vehicles with fisheye cameras.

    Attributes:
        model: Near-field model: the name of a shipped model (`near_field`) or the path of a card.yaml.
            Leave it empty to switch the near-field network off.
        kerbs_occupied: Treat kerbs as occupied; otherwise the cells of kerbs stay unknown. Disable it if
            the vehicle may drive over kerbs.
    """

    model: str = ""
    kerbs_occupied: bool = True


class NearFieldSource:
    """Evidence and classes of 72 x 72 cells of 0.2 m from fisheye cameras and ultrasonic sensors.

    Cells inside the vehicle's footprint (`footprint` and `footprint_offset_x` of the rig) stay unknown,
    as the network was trained without labels there. Frames without fisheye cameras give no grid, because
    the inverse sensor model of the ultrasonic sensors is more accurate than the network then. counts:
    rejected cameras (see NearFieldInputs) and engine_failed.
    """

    def __init__(self, config: NearFieldConfig, runtime: RuntimeConfig | None = None) -> None:
        """Raises UserError for a card of another network, or if no inference engine runs it."""
        self.config = config
        card = load_card(config.model)
        check_card(card)
        self._engine = open_model(card, runtime)
        self._inputs = NearFieldInputs()
        # Class numbers of the semantic layer by class of the network.
        self._class_numbers = np.array([SEMANTIC_LAYER.index(n) for n in card.classes], np.uint8)
        x, y = GridGeometry.around_base(CELLS, RESOLUTION).centres(*np.mgrid[0:CELLS, 0:CELLS])
        self._centres = np.column_stack([x.ravel(), y.ravel()])
        self._failures: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """Rejected cameras and failed frames by reason."""
        return self._inputs.counts + self._failures

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """Status of the inference engine, for diagnostics."""
        return (engine_status(self._engine),)

    def sensor_use(self, rig: Rig) -> SensorUse:
        """The ultrasonic sensors and as many fisheye cameras of a rig as the network takes.

        Cameras whose intrinsics come from a CameraInfo may be fisheye cameras.
        """
        fisheyes = [
            name
            for name, sensor in sorted(rig.sensors_of(Modality.CAMERA).items())
            if sensor.intrinsics is None or sensor.intrinsics.model == "equidistant"
        ]
        modalities = (Modality.CAMERA, Modality.ULTRASONIC)
        notes = tuple(training_rig_notes(load_card(self.config.model), rig, modalities))
        ultrasonics = SensorUse(of_modalities(rig, Modality.ULTRASONIC), notes=notes)
        return merged(limited(fisheyes, CAMERAS, "fisheye cameras"), ultrasonics)

    def update(self, frame: SensorFrame) -> OccupancyGrid | None:
        """The grid of one frame in base_link; None without fisheye cameras or if the engine fails."""
        fisheyes = self._inputs.select_fisheyes(frame)
        # Also without fisheye cameras, to accumulate the ultrasonic evidence.
        arrays = self._inputs.build(frame, fisheyes)
        if arrays is None or not fisheyes:
            return None
        try:
            outputs = self._engine.run(arrays)
        except EngineError:
            self._failures["engine_failed"] += 1
            return None
        evidence = outputs["evidence"][0]
        belief = evidence / (evidence.sum(axis=0) + len(evidence))  # Han et al. 2021, eq. 4
        # The network was not trained on cells without any sensor data.
        no_data = (outputs["camera_count"][0] == 0) & ~arrays["ultrasonic_grid"][0].any(axis=0)
        belief[:, no_data | self._inside_vehicle(frame)] = 0.0
        semantic = self._class_numbers[1 + belief[1:].argmax(axis=0)]
        if not self.config.kerbs_occupied:
            belief[self._class_numbers == SEMANTIC_LAYER.index("kerb")] = 0.0
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

    def _inside_vehicle(self, frame: SensorFrame) -> NDArray[np.bool_]:
        """Cells (72, 72) whose centre is inside the footprint; none if the footprint is unknown."""
        if frame.vehicle_footprint is None:
            return np.zeros((CELLS, CELLS), np.bool_)
        return frame.vehicle_footprint.contains(self._centres).reshape(CELLS, CELLS)


def check_card(card: ModelCard) -> None:
    """Raise UserError unless a card is that of a near-field network with this module's grid."""
    parameter = f"pipeline.near_field.model: {card.source}"
    shapes = {name: spec.shape for name, spec in card.inputs.items()}
    if shapes != INPUT_SHAPES:
        raise UserError(f"{parameter}: inputs: must be {_describe(INPUT_SHAPES)}")
    expected = {
        "evidence": (1, len(card.classes), CELLS, CELLS),
        "camera_count": (1, CELLS, CELLS),
    }
    if {name: spec.shape for name, spec in card.outputs.items()} != expected:
        raise UserError(f"{parameter}: outputs: must be {_describe(expected)}")
    if not card.classes or card.classes[0] != "free" or set(card.classes) - set(SEMANTIC_LAYER):
        allowed = ", ".join(SEMANTIC_LAYER)
        raise UserError(f"{parameter}: classes: must be free, then others of {allowed}")
    pixels = card.normalisation.get("images", {})
    if pixels and (pixels.get("mean"), pixels.get("std")) != (PIXEL_MEAN, PIXEL_STD):
        raise UserError(
            f"{parameter}: normalisation.images: mean must be {PIXEL_MEAN}, std {PIXEL_STD}"
        )
    half = CELLS * RESOLUTION / 2
    if card.range and not np.allclose(
        [card.range[0], card.range[1], card.range[3], card.range[4]], [-half, -half, half, half]
    ):
        raise UserError(f"{parameter}: range: must be {-half:g} to {half:g} m in x and y")


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
