"""Class sets: the package's classes as those of benchmarks."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.class_sets import CLASS_SETS, TEN_CLASSES
from multimodal_perception.evaluation.matched_boxes import evaluated_names
from multimodal_perception.evaluation.nuscenes_metrics import ScoredFrame, nuscenes_metrics
from multimodal_perception.frame import Boxes3D

# The class of each of TEN_CLASSES in each benchmark; None: not evaluated.
EXPECTED = {
    "six": ("car", "car", "truck", "bus", "truck", "cyclist", "cyclist", "pedestrian", None, None),
    "ten": TEN_CLASSES,
    "nuscenes": (
        *("car", "car", "truck", "bus", "trailer"),
        *("motorcycle", "bicycle", "pedestrian", "traffic_cone", "barrier"),
    ),
    "kitti": ("Car", "Van", "Truck", "Tram", "Truck", None, "Cyclist", "Pedestrian", None, None),
    "pandaset": (
        *("Car", "Car", "Truck", "Bus", "Towed Object"),
        *("Motorcycle", "Bicycle", "Pedestrian", "Cones", "Barriers"),
    ),
    "autoware": (
        *("CAR", "CAR", "TRUCK", "BUS", "TRAILER"),
        *("MOTORCYCLE", "BICYCLE", "PEDESTRIAN", None, None),
    ),
}


def ten_boxes() -> Boxes3D:
    """One box of each class, 2 m apart."""
    boxes = np.ones((len(TEN_CLASSES), 7), np.float32)
    boxes[:, 0] = 2.0 * np.arange(len(TEN_CLASSES))
    labels = np.arange(len(TEN_CLASSES))
    return Boxes3D(0, "base_link", boxes, np.ones(len(boxes), np.float32), labels, TEN_CLASSES)


@pytest.mark.parametrize("name", list(CLASS_SETS))
def test_classes_of_benchmarks(name: str) -> None:
    names = evaluated_names(ten_boxes(), CLASS_SETS[name].protocol())
    assert tuple(n or None for n in names.tolist()) == EXPECTED[name]
    assert set(CLASS_SETS[name].default) == set(EXPECTED[name]) - {None}


@pytest.mark.parametrize(
    ("name", "large"),
    [
        *(("six", "car"), ("ten", "van"), ("kitti", "Van")),
        *(("nuscenes", "truck"), ("pandaset", "Truck"), ("autoware", "TRUCK")),
    ],
)
def test_cargo_vans_are_trucks_where_the_benchmark_counts_them_so(name: str, large: str) -> None:
    """A panel van, a minivan, a delivery van, and a lorry; (length, width, height) in metres."""
    sizes = np.array([(5.7, 2.2, 2.2), (5.1, 2.0, 1.8), (4.4, 1.8, 1.85), (7.0, 2.5, 3.2)])
    boxes = np.zeros((4, 7), np.float32)
    boxes[:, 3:6] = sizes
    labels = np.array([TEN_CLASSES.index(n) for n in ("van", "van", "van", "truck")])
    found = Boxes3D(0, "base_link", boxes, np.ones(4, np.float32), labels, TEN_CLASSES)
    names = evaluated_names(found, CLASS_SETS[name].protocol()).tolist()
    small, truck = (EXPECTED[name][TEN_CLASSES.index(n)] for n in ("van", "truck"))
    assert names == [large, small, small, truck]


def test_a_panel_van_is_a_medium_sized_truck_of_pandaset() -> None:
    """The detector reports a van; PandaSet's cuboid is a Medium-sized Truck, which is read as truck."""
    box = np.array([[14.0, 19.7, 0.6, 5.7, 2.2, 2.2, 0.0]], np.float32)
    classes = [np.array([TEN_CLASSES.index(n)]) for n in ("van", "truck")]
    found, label = (
        Boxes3D(0, "base_link", box, np.ones(1, np.float32), labels, TEN_CLASSES)
        for labels in classes
    )
    metrics = nuscenes_metrics([ScoredFrame(found, label)], CLASS_SETS["pandaset"].protocol())
    assert metrics["by_class"]["Truck"]["ap"] == pytest.approx(1.0)
    assert metrics["by_class"]["Car"]["boxes"] == 0


def test_labels_and_boxes_of_merged_classes_match() -> None:
    truth, other = ten_boxes(), ten_boxes()
    rider = TEN_CLASSES.index("motorcyclist")
    other.labels[rider] = TEN_CLASSES.index("cyclist")
    frames = [ScoredFrame(other, truth)]
    six = nuscenes_metrics(frames, CLASS_SETS["six"].protocol())
    assert six["map"] == pytest.approx(1.0) and six["by_class"]["cyclist"]["labels"] == 2
    ten = nuscenes_metrics(frames, CLASS_SETS["ten"].protocol())
    assert ten["by_class"]["motorcyclist"]["ap"] == 0.0
    assert ten["by_class"]["cyclist"]["ap"] < 1.0


def test_classes_and_range_of_a_protocol() -> None:
    protocol = CLASS_SETS["nuscenes"].protocol(["bicycle", "car"], 20.0)
    assert dict(protocol.ranges) == {"bicycle": 20.0, "car": 20.0}
    assert set(CLASS_SETS["six"].protocol(["cone"]).ranges) == {"cone"}
    with pytest.raises(UserError, match=r"classes: allowed: car, truck, .*; got 'cyclist'"):
        CLASS_SETS["nuscenes"].protocol(["cyclist"])


def test_cones_and_barriers_of_every_set_have_no_undefined_errors() -> None:
    for name, cone, barrier in (
        ("nuscenes", "traffic_cone", "barrier"),
        ("pandaset", "Cones", "Barriers"),
    ):
        turned = ten_boxes()
        turned.boxes[TEN_CLASSES.index("barrier"), 6] += np.pi
        by_class = nuscenes_metrics(
            [ScoredFrame(turned, ten_boxes())], CLASS_SETS[name].protocol()
        )["by_class"]
        assert np.isnan(by_class[cone]["aoe"])
        assert by_class[barrier]["aoe"] == pytest.approx(0.0, abs=1e-6)
