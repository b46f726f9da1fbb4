"""The shipped detector tells people apart by what they look like, not by where they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.datasets.simulation_writer import SimulationPlan
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector
from multimodal_perception.frame import CLASS_NAMES, Modality
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.world.scenarios import Lane, load_scenario


@pytest.mark.parametrize(("kind", "place"), [("pedestrian", 1.9), ("cyclist", 7.6)])
def test_people_are_known_where_the_others_usually_are(kind: str, place: float) -> None:
    """Walkers on the carriageway, riders on the pavement, by the LiDAR alone and by all sensors."""
    street = load_scenario("urban_street")
    lane = Lane(place, 1.3, 8.0, {kind: 1.0}, 0.12 if place > street.half_width else 0.0)
    street = replace(street, lanes=(lane,), people=0.0, parked=0.0)
    simulation = SimulationPlan(
        street, load_rig(rig_path("simulation")), 10_007, 40, ()
    ).simulation()
    detector = FusionDetector(
        FusionConfig(min_score=0.3), RuntimeConfig(order=("onnxruntime",), device="cpu")
    )
    said: Counter[str] = Counter()
    for index in (0, 15, 30):
        whole = simulation[index]
        for frame in (whole, whole.only((Modality.LIDAR,))):
            boxes = detector.detect(frame, ground_cloud(frame))
            for box, seen in zip(whole.labels.boxes, whole.labels.visibility, strict=True):
                away = np.hypot(*(boxes.boxes[:, :2] - box[:2]).T)
                if not 6 < np.hypot(*box[:2]) < 25 or seen < 0.9 or abs(box[1] - place - 1.9) > 1.5:
                    continue
                found = len(away) and away.min() < 0.7
                said[CLASS_NAMES[boxes.labels[away.argmin()]] if found else "nothing"] += 1
    assert said.total() > 15
    assert said[kind] >= 0.8 * said.total(), said


def test_what_stands_about_is_seldom_taken_for_vehicles_and_riders() -> None:
    """Shrubs, hedges, stems, posts and bicycles without riders, in a street with nobody in it."""
    street = replace(
        load_scenario("urban_street"),
        lanes=(),
        people=0.0,
        parked=0.0,
        clutter=0.8,
        gardens=0.8,
        conditions=Conditions(foliage=0.2),
    )
    simulation = SimulationPlan(
        street, load_rig(rig_path("simulation")), 10_007, 80, ()
    ).simulation()
    detector = FusionDetector(FusionConfig(), RuntimeConfig(order=("onnxruntime",), device="cpu"))
    said: Counter[str] = Counter()
    for index in (0, 25, 50, 75):
        frame = simulation[index]
        boxes = detector.detect(frame, ground_cloud(frame))
        near = np.hypot(*boxes.boxes[:, :2].T) < 40.0
        said.update(CLASS_NAMES[label] for label in boxes.labels[near])
    # Earlier weights, trained where furniture stands on pavements alone, said 3 cars and 5 cyclists.
    # Beacons, posts and low signs are still taken for people.
    assert said.total() - said["pedestrian"] <= 3, said
    assert said["pedestrian"] <= 60, said
