"""Accuracy of the geometric detector's boxes, by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES


class BoxAccuracy(NamedTuple):
    """Standard deviations: of the centre along x and y and along z, m; of the heading, rad."""

    position: float
    height: float
    heading: float


# The heading of people and of round objects is not measured: it is uniform over half a turn.
UNKNOWN_HEADING = np.pi / np.sqrt(12.0)
# Roll and pitch of the box, which is upright, relative to those of the object on a road, rad.
TILT = np.radians(3.0)
# Positions are those that the tracker assumes. Heights and headings are root mean squares of the errors
# of 357 boxes in 14 frames of the simulated scenario urban_street: vehicles 0.08 m and 0.24 rad,
# pedestrians 0.08 m and 0.95 rad.
VEHICLE = BoxAccuracy(0.3, 0.08, 0.24)
PERSON = BoxAccuracy(0.2, 0.08, UNKNOWN_HEADING)
ACCURACY = {
    "pedestrian": PERSON,
    "cyclist": BoxAccuracy(0.2, 0.08, 0.24),
    "motorcyclist": BoxAccuracy(0.2, 0.08, 0.24),
    "cone": BoxAccuracy(0.1, 0.08, UNKNOWN_HEADING),
    "unknown": BoxAccuracy(0.3, 0.08, UNKNOWN_HEADING),
}


def box_covariances(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Covariances (N, 6, 6) of x, y, z, roll, pitch, yaw of boxes with classes (N,), m^2 and rad^2."""
    accuracies = [ACCURACY.get(name, VEHICLE) for name in CLASS_NAMES]
    deviations = np.array(
        [(a.position, a.position, a.height, TILT, TILT, a.heading) for a in accuracies]
    )
    result = np.zeros((len(labels), 6, 6), np.float32)
    result[:, range(6), range(6)] = deviations[labels] ** 2
    return result
