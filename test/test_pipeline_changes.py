"""Parameters that can change while the pipeline runs: each one reaches the stage that uses it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.detection.geometric.box_covariance import ACCURACY, box_covariances
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.images.image_quality import ImageQualityMonitor
from multimodal_perception.occupancy.evidential import EvidentialMapper
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.pipeline_changes import use_thresholds
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.ros import parameters
from multimodal_perception.track_filter import DEFAULT_MOTION_MODEL, MOTION_MODELS
from multimodal_perception.tracking import Tracker

# Sections whose stages need a model: they are tested with the networks.
NETWORKS = ("fusion", "rgb_thermal_detector", "imported_detector")


def pipeline() -> Pipeline:
    return Pipeline(
        GeometricDetector(),
        segment_ground,
        ImageObjects(),
        ImageQualityMonitor(),
        tracker=Tracker(),
        occupancy=EvidentialMapper(),
    )


def changed(config: Any) -> Any:
    """The configuration with another value of every dynamic parameter."""
    values = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            values[item.name] = changed(value)
        elif item.metadata.get("dynamic"):
            low, high = item.metadata["min"], item.metadata["max"]
            middle = type(value)((low + high) / 2)
            values[item.name] = middle if middle != value else type(value)(high)
    return replace(config, **values)


def test_every_dynamic_threshold_of_the_pipeline_reaches_its_stage() -> None:
    running, config = pipeline(), changed(PipelineConfig())
    use_thresholds(running, config)
    stages: dict[str, Any] = {
        "geometric": running.detector,
        "image_quality": running.image_quality,
        "tracking": running.tracker,
        "evidential": running.occupancy,
    }
    dynamic = {n.split(".")[1] for n in parameters.dynamic_names() if n.startswith("pipeline.")}
    assert dynamic == {*stages, *NETWORKS}
    for section, stage in stages.items():
        assert stage.config == getattr(config, section) != getattr(PipelineConfig(), section)
    assert isinstance(running.occupancy, EvidentialMapper)
    assert running.occupancy.grid.config == config.evidential.grid


def test_disabled_stages_are_skipped_and_their_results_are_absent() -> None:
    frame = SyntheticDataset(frames=1, rings=16, columns=600)[0]
    running = pipeline()
    called: list[Any] = []
    result = running.process(frame, on_boxes=called.append)
    assert len(result.boxes) and result.occupancy is not None and result.image_quality
    assert result.boxes.track_ids is not None and result.cloud is not None
    assert running.configured == {
        "detector",
        "image_quality",
        "tracking",
        "occupancy",
    }
    for disabled, absent in (
        ("detector", lambda r: not len(r.boxes)),
        ("tracking", lambda r: r.boxes.track_ids is None),
        ("occupancy", lambda r: r.occupancy is None),
        ("image_quality", lambda r: not r.image_quality),
    ):
        running.disabled = frozenset({disabled})
        called.clear()
        result = running.process(frame, on_boxes=called.append)
        assert absent(result) and result.disabled == {disabled}
        assert bool(called) == (disabled != "detector")
    running.disabled = frozenset()
    assert len(running.process(frame, on_boxes=called.append).boxes)


def test_a_reset_forgets_the_evidence_of_earlier_frames() -> None:
    frame = SyntheticDataset(frames=1, rings=16, columns=600)[0]
    running = pipeline()
    running.process(frame)
    assert isinstance(running.occupancy, EvidentialMapper)
    assert running.occupancy.grid.occupied.any() and running.reset_occupancy()
    assert not running.occupancy.grid.occupied.any() and not running.occupancy.grid.free.any()
    running.occupancy = None
    assert not running.reset_occupancy()


def test_covariances_of_the_geometric_detector_do_not_change_the_tracking() -> None:
    covariances = box_covariances(np.arange(len(CLASS_NAMES)))
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    for name, covariance in zip(CLASS_NAMES, covariances, strict=True):
        # The tracker takes the larger one of both.
        model = MOTION_MODELS.get(name, DEFAULT_MOTION_MODEL)
        assert covariance[0, 0] == pytest.approx(model.position_std**2)
        unknown = name in ("pedestrian", "cone", "unknown")
        assert (covariance[5, 5] > 0.8) == unknown
    assert set(ACCURACY) <= set(CLASS_NAMES)
