"""The frames of one drive with their ground truth, and their corrupted versions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.datasets.open_dataset import DatasetName, open_dataset
from multimodal_perception.datasets.shards import ShardDataset
from multimodal_perception.evaluation.breakdown import observable_labels
from multimodal_perception.evaluation.detector_drives import SCENARIOS
from multimodal_perception.evaluation.occupancy import TruthFunction
from multimodal_perception.evaluation.occupancy_drives import TRUTH_RESOLUTION_M, cell_truth
from multimodal_perception.evaluation.recorded_drives import labels_in_view
from multimodal_perception.evaluation.robustness.catalogue import corrupt
from multimodal_perception.evaluation.robustness.corruption import FrameSource
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.rig import Rig
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout

# Frames before the first evaluated one, for the corruptions with old data.
LEAD = 10
# Distance up to which cells of the occupancy grid are evaluated, metres.
MAX_RANGE_M = 30.0
CACHED_FRAMES = 48


@dataclass(frozen=True)
class DriveSource:
    """A drive: recorded data at `root`, or the simulated drive of a seed (root is empty).

    dataset: format of the recorded data. The seed selects the scenario; odd seeds are at night. frames:
    number of evaluated frames. interval: difference of the indices of two consecutive ones.
    random_seed: of the corruptions.
    """

    root: str = ""
    dataset: DatasetName | None = None
    seed: int = 0
    rig: str = "simulation"
    profile: Profile = "basic"
    frames: int = 4
    interval: int = 5
    random_seed: int = 0

    @property
    def name(self) -> str:
        """Name of the drive in the report."""
        return self.root or f"{SCENARIOS[self.seed % len(SCENARIOS)]}, seed {self.seed}"


@dataclass(frozen=True)
class FrameTruth:
    """Ground truth of a frame; None where the data does not have it.

    labels: observable boxes. semantics: segmentation labels (H, W) by camera or thermal camera.
    true_state: of the cells of the occupancy grid. in_view: labels are of objects in the images only.
    """

    labels: Boxes3D | None = None
    semantics: Mapping[str, NDArray[np.uint8]] | None = None
    true_state: TruthFunction | None = None
    in_view: bool = False


@dataclass
class RobustnessDrive:
    """A drive whose frames are read or simulated on demand; recent frames are kept in memory."""

    source: DriveSource
    dataset: Any
    render: Callable[[str], Any] | None = None
    _frames: OrderedDict[Any, SensorFrame] = field(default_factory=OrderedDict)
    _rendered: dict[str, Any] = field(default_factory=dict)
    _truths: dict[int, FrameTruth] = field(default_factory=dict)

    @property
    def rig(self) -> Rig:
        """The rig of the data."""
        rig: Rig = self.dataset.rig
        return rig

    @property
    def indices(self) -> list[int]:
        """Indices of the evaluated frames, from LEAD on where the data is long enough."""
        count, interval = len(self.dataset), self.source.interval
        needed = (self.source.frames - 1) * interval + 1
        first = min(LEAD, max(count - needed, 0))
        return list(range(first, count, interval))[: self.source.frames]

    def frame(self, index: int) -> SensorFrame:
        """A clean frame."""
        return self._cached(index, lambda: self.dataset[index])

    def frame_source(self, index: int) -> FrameSource:
        """A clean frame with the frames before it."""

        def earlier(count: int) -> SensorFrame | None:
            return self.frame(index - count) if index >= count else None

        def rendered(condition: str) -> SensorFrame | None:
            if self.render is None:
                return None
            if condition not in self._rendered:
                self._rendered[condition] = self.render(condition)
            other = self._rendered[condition]
            return self._cached((condition, index), lambda: other[index])

        age = index - self.indices[0]
        return FrameSource(self.frame(index), earlier, rendered, self.source.random_seed, age)

    def corrupted(
        self, index: int, corruption: str, sensors: Collection[str], severity: int
    ) -> SensorFrame:
        """A corrupted frame, see catalogue.corrupt."""
        return corrupt(self.frame_source(index), corruption, sensors, severity)

    def truth(self, index: int) -> FrameTruth:
        """Ground truth of an evaluated frame. Raises UserError if the data cannot be read."""
        if index not in self._truths:
            self._truths[index] = self._read_truth(index)
        return self._truths[index]

    def _read_truth(self, index: int) -> FrameTruth:
        frame = self.frame(index)
        labels = frame.labels
        if labels is not None:
            labels = labels.select(observable_labels(labels))
        in_view = labels_in_view(self.dataset)
        if not isinstance(self.dataset, (Simulation, ShardDataset)):
            return FrameTruth(labels, in_view=in_view)
        truth = self.dataset.truth(index)
        semantics = {n: labels_from_semantics(v.semantics) for n, v in truth.views.items()}
        return FrameTruth(labels, semantics, cell_truth(truth), in_view)

    def _cached(self, key: Any, read: Callable[[], SensorFrame]) -> SensorFrame:
        if key in self._frames:
            self._frames.move_to_end(key)
            return self._frames[key]
        frame = self._frames[key] = read()
        if len(self._frames) > CACHED_FRAMES:
            self._frames.popitem(last=False)
        return frame


def open_drive(source: DriveSource) -> RobustnessDrive:
    """Open a drive. Raises UserError if there is none, or it has no frames."""
    if source.root:
        dataset: Dataset = open_dataset(source.root, source.dataset)
        if not len(dataset):
            raise UserError(f"{source.root}: no frames")
        return RobustnessDrive(source, dataset)
    rig = open_rig(source.rig)
    simulation = _simulate(source, rig, ())

    def render(condition: str) -> Simulation:
        # Each sensor has its own random numbers, so the images differ only by the condition.
        cameras = replace(rig, sensors=rig.sensors_of(Modality.CAMERA))
        return _simulate(source, cameras, (condition,), simulation.rate_hz)

    return RobustnessDrive(source, simulation, render)


def _simulate(
    source: DriveSource, rig: Rig, conditions: tuple[str, ...], rate_hz: float | None = None
) -> Simulation:
    scenario = SCENARIOS[source.seed % len(SCENARIOS)]
    night = ("night",) if source.seed % 2 else ()
    grid = GridLayout(MAX_RANGE_M + 1.0, TRUTH_RESOLUTION_M)
    count = LEAD + source.frames * source.interval
    words = (*night, *conditions)
    simulation = Simulation(
        scenario, rig, source.seed, count, words, grid=grid, profile=source.profile
    )
    if rate_hz is not None:
        simulation.rate_hz = rate_hz
    return simulation
