"""The near-field stage with the shipped network, on a simulated frame and in the pipeline."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError, build, load_yaml
from multimodal_perception.frame import SensorFrame
from multimodal_perception.near_field.network_inputs import CELLS, RESOLUTION
from multimodal_perception.near_field.source import NearFieldConfig, NearFieldSource
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout
from multimodal_perception.training.near_field.dataset import UNLABELLED, cell_labels

CPU = RuntimeConfig(order=("onnxruntime",), threads=1)
MODEL = NearFieldConfig(model="near_field")


@pytest.fixture(scope="module")
def drive() -> Simulation:
    layout = GridLayout(CELLS * RESOLUTION / 2, RESOLUTION / 4)
    rig = load_rig(resolve_rig_path("near_field"))
    return Simulation("parking_lot", rig, 10001, 60, grid=layout)


@pytest.fixture(scope="module")
def frame(drive: Simulation) -> SensorFrame:
    return drive[50]


@pytest.fixture(scope="module")
def source() -> NearFieldSource:
    return NearFieldSource(MODEL, CPU)


def test_grid_agrees_with_the_ground_truth_of_an_unseen_drive(
    source: NearFieldSource, frame: SensorFrame, drive: Simulation
) -> None:
    grid = source.update(frame)
    assert grid is not None and grid.frame_id == "base_link" and grid.stamp_ns == frame.stamp_ns
    assert grid.origin == (-7.2, -7.2) and grid.free.shape == (CELLS, CELLS)
    labels = cell_labels(drive.truth(50), drive.rig.vehicle_footprint)
    known = (labels != UNLABELLED) & (grid.unknown() < 0.7)
    truth, predicted = labels[known] > 0, (grid.occupied > grid.free)[known]
    assert known.sum() > 2000
    assert (truth & predicted).sum() / (truth | predicted).sum() > 0.5
    assert (~truth & ~predicted).sum() / (~truth | ~predicted).sum() > 0.85
    assert (grid.unknown() >= -1e-6).all() and grid.semantic is not None
    assert set(np.unique(grid.semantic)) <= {0, *range(2, len(SEMANTIC_LAYER))}


def test_cells_of_the_vehicle_and_without_sensor_data_are_unknown(
    source: NearFieldSource, frame: SensorFrame
) -> None:
    centre = CELLS // 2
    grid = source.update(frame)
    assert grid is not None
    assert grid.unknown()[centre - 4 : centre + 4, centre - 10 : centre + 10].min() == 1
    front = {"fisheye_front": frame.cameras["fisheye_front"]}
    half = source.update(replace(frame, cameras=front, ultrasonics={}))
    assert half is not None
    assert (half.unknown()[:, :20] == 1).all() and half.unknown()[centre, -5] < 0.8
    assert source.update(replace(frame, cameras={})) is None


def test_cells_inside_the_footprint_of_the_rig_are_unknown(
    source: NearFieldSource, frame: SensorFrame
) -> None:
    footprint = load_rig(resolve_rig_path("car")).vehicle_footprint
    assert footprint is not None
    assert (footprint.rear, footprint.front) == pytest.approx((-0.95, 3.75))
    grid = source.update(replace(frame, vehicle_footprint=footprint))
    assert grid is not None
    x = (np.arange(CELLS) + 0.5) * RESOLUTION - CELLS * RESOLUTION / 2
    row = CELLS // 2
    inside = (x > footprint.rear) & (x < footprint.front)
    assert (grid.unknown()[row, inside] == 1).all()
    # The cells behind the rear bumper are not masked (no camera covers the last one before it).
    behind = (x > -2.2) & (x < footprint.rear - RESOLUTION)
    assert (grid.unknown()[row, behind] < 1).all()
    # Without a known footprint no cell is masked.
    grid = source.update(replace(frame, vehicle_footprint=None))
    assert grid is not None and (grid.unknown()[row, behind] < 1).all()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("shape: [1, 5, 72, 72]", "shape: [1, 5, 80, 80]", "inputs: must be images"),
        ("[1, 6, 72, 72]", "[1, 7, 72, 72]", "outputs: must be evidence"),
        ("classes: [free, kerb", "classes: [kerb, free", "classes: must be free"),
        ("mean: 127.0", "mean: 0.0", "mean must be 127.0"),
        ("range: [-7.2, -7.2", "range: [-10.0, -10.0", "range: must be -7.2 to 7.2 m"),
    ],
)
def test_card_of_another_grid_or_network_is_refused(
    old: str, new: str, match: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(load_card("near_field").path.parent, tmp_path / "model")  # type: ignore[union-attr]
    text = (folder / "card.yaml").read_text()
    assert old in text
    (folder / "card.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"pipeline\.near_field\.model") as error:
        NearFieldSource(NearFieldConfig(model=str(folder)), CPU)
    assert match in str(error.value)


def test_kerbs_can_be_unknown_and_engine_failures_are_counted(
    source: NearFieldSource, frame: SensorFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_kerbs = NearFieldSource(replace(MODEL, kerbs_occupied=False), CPU).update(frame)
    assert without_kerbs is not None and without_kerbs.semantic is not None
    assert SEMANTIC_LAYER.index("kerb") not in without_kerbs.semantic

    def fail(arrays: object) -> None:
        raise EngineError("broken")

    monkeypatch.setattr(source._engine, "run", fail)
    assert source.update(frame) is None and source.counts == {"engine_failed": 1}


def test_near_field_is_fused_into_the_grid_of_the_pipeline(frame: SensorFrame) -> None:
    config = PipelineConfig(near_field=MODEL, runtime=CPU)
    perception = build_pipeline(config).process(frame)
    without = build_pipeline(PipelineConfig()).process(frame).occupancy
    grid = perception.occupancy
    assert grid is not None and without is not None and grid.semantic is not None
    assert grid.unknown().sum() < without.unknown().sum() - 1000
    assert set(np.unique(grid.semantic)) > {0}
    assert perception.stage_ms["near_field"] > 0
    wrong = PipelineConfig(near_field=NearFieldConfig(model="none_such"), runtime=CPU)
    with pytest.raises(UserError, match="none_such"):
        build_pipeline(wrong)


def test_shipped_parameter_file_enables_the_near_field() -> None:
    values = load_yaml(share_path("config", "near_field.yaml"))["/**"]["ros__parameters"]
    assert list(values) == ["pipeline"]
    config = build(PipelineConfig, values["pipeline"], "near_field.yaml")
    assert config == replace(PipelineConfig(), near_field=MODEL)
