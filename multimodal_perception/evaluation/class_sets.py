"""The classes of benchmarks: from the package's classes to those in which results are compared.

Labels and boxes are mapped with the same table, so that a detector with other classes than the labels
is evaluated on what both distinguish. Two classes of the package that map to one class of a benchmark
are not confused with each other by the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.nuscenes_metrics import (
    CLASS_RANGES,
    MOVING_CLASSES,
    NuScenesProtocol,
)

# The classes of the detector that has a class for each of them.
TEN_CLASSES = (
    "car",
    "van",
    "truck",
    "bus",
    "trailer",
    "motorcyclist",
    "cyclist",
    "pedestrian",
    "cone",
    "barrier",
)


@dataclass(frozen=True)
class ClassSet:
    """The classes of one benchmark.

    ranges: evaluation range by class of the benchmark, metres from the vehicle. names: class of the
    benchmark by class of the package; a class that is missing has the same name in both, and is not
    evaluated if `ranges` does not contain it. large_vans: class of the benchmark for large cargo vans,
    see NuScenesProtocol. default: evaluated unless other classes are requested.
    """

    ranges: Mapping[str, float]
    names: Mapping[str, str]
    default: tuple[str, ...]
    large_vans: str = ""

    def protocol(
        self, classes: Sequence[str] | None = None, max_range: float | None = None
    ) -> NuScenesProtocol:
        """The metrics for some classes of the set (None: the default ones), up to max_range metres.

        Raises UserError for a class that the set does not have.
        """
        selected = self.default if classes is None else tuple(classes)
        for name in selected:
            if name not in self.ranges:
                raise UserError(f"classes: allowed: {', '.join(self.ranges)}; got {name!r}")
        protocol = NuScenesProtocol(
            {name: self.ranges[name] for name in selected},
            aliases=dict(self.names),
            large_vans=self.large_vans,
        )
        return protocol if max_range is None else protocol.limit_range(max_range)


def _class_set(ranges: Mapping[str, float], large_vans: str = "", **names: str) -> ClassSet:
    return ClassSet(ranges, names, tuple(ranges), large_vans)


CLASS_SETS: dict[str, ClassSet] = {
    # The six classes of the detector of version 0.2, with vans as cars as in nuScenes.
    "six": ClassSet(
        CLASS_RANGES,
        {"van": "car", "trailer": "truck", "motorcyclist": "cyclist"},
        MOVING_CLASSES,
    ),
    "ten": _class_set(
        {
            **dict.fromkeys(("car", "van", "truck", "bus", "trailer"), 50.0),
            **dict.fromkeys(("motorcyclist", "cyclist", "pedestrian"), 40.0),
            **dict.fromkeys(("cone", "barrier"), 30.0),
        }
    ),
    # Detection classes and ranges of nuScenes (Caesar et al. 2020), without construction vehicles. Its
    # annotator instructions count vans for personal use as cars, and pickups and other vehicles that are
    # primarily designed to haul cargo as trucks.
    "nuscenes": _class_set(
        {
            **dict.fromkeys(("car", "truck", "bus", "trailer"), 50.0),
            **dict.fromkeys(("motorcycle", "bicycle", "pedestrian"), 40.0),
            **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
        },
        large_vans="truck",
        van="car",
        motorcyclist="motorcycle",
        cyclist="bicycle",
        cone="traffic_cone",
    ),
    # KITTI's object classes (Geiger et al. 2012); its labels have no class for motorcyclists.
    "kitti": _class_set(
        dict.fromkeys(("Car", "Van", "Truck", "Tram", "Cyclist", "Pedestrian"), 50.0),
        car="Car",
        van="Van",
        truck="Truck",
        trailer="Truck",
        bus="Tram",
        cyclist="Cyclist",
        pedestrian="Pedestrian",
    ),
    # PandaSet's cuboid classes (Xiao et al. 2021), grouped: pickups, medium-sized trucks and semi-trucks
    # are trucks, towed objects trailers, and riders belong to the vehicle. It has no class for vans:
    # minivans have the label Car, cargo vans (in scene 002 a Ford Transit of 5.7 x 2.2 x 2.2 m) the
    # label Medium-sized Truck.
    "pandaset": _class_set(
        {
            **dict.fromkeys(("Car", "Truck", "Bus", "Towed Object"), 50.0),
            **dict.fromkeys(("Motorcycle", "Bicycle", "Pedestrian"), 40.0),
            **dict.fromkeys(("Cones", "Barriers"), 30.0),
        },
        large_vans="Truck",
        car="Car",
        van="Car",
        truck="Truck",
        bus="Bus",
        trailer="Towed Object",
        motorcyclist="Motorcycle",
        cyclist="Bicycle",
        pedestrian="Pedestrian",
        cone="Cones",
        barrier="Barriers",
    ),
    # autoware_perception_msgs/ObjectClassification. Autoware's data sets have the categories of nuScenes
    # (vehicle.car, vehicle.truck; tier4/autoware_perception_evaluation, docs/en/perception/label.md).
    "autoware": _class_set(
        {
            **dict.fromkeys(("CAR", "TRUCK", "BUS", "TRAILER"), 50.0),
            **dict.fromkeys(("MOTORCYCLE", "BICYCLE", "PEDESTRIAN"), 40.0),
        },
        large_vans="TRUCK",
        car="CAR",
        van="CAR",
        truck="TRUCK",
        bus="BUS",
        trailer="TRAILER",
        motorcyclist="MOTORCYCLE",
        cyclist="BICYCLE",
        pedestrian="PEDESTRIAN",
    ),
}
