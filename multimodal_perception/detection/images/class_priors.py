"""Sizes of the classes of image detectors, for 3D boxes from images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SizePrior:
    """Log-normal distribution of the size of one class of objects.

    label: name in CLASS_NAMES. size: median length, width and height, metres. ratios: standard deviation
    of the logarithm of each, about the relative standard deviation. weight: probability of this
    distribution among those of one class of the image detector.
    """

    label: str
    size: tuple[float, float, float]
    ratios: tuple[float, float, float]
    weight: float = 1.0

    @property
    def row(self) -> NDArray[np.float64]:
        """The values (8,) for the kernels: log sizes, ratios, negative log of the weight, symmetric.

        Symmetric is 1 for objects as wide as long, whose heading has no effect on their outline.
        """
        symmetric = float(self.size[0] == self.size[1])
        return np.array([*np.log(self.size), *self.ratios, -np.log(self.weight), symmetric])


CAR = SizePrior("car", (4.5, 1.85, 1.6), (0.09, 0.06, 0.10))
VAN = SizePrior("van", (5.2, 2.0, 2.1), (0.12, 0.07, 0.12))
TRUCK = SizePrior("truck", (7.5, 2.45, 3.1), (0.30, 0.10, 0.15))
BUS = SizePrior("bus", (11.0, 2.6, 3.2), (0.20, 0.07, 0.10))
PEDESTRIAN = SizePrior("pedestrian", (0.7, 0.7, 1.7), (0.4, 0.4, 0.075))
CYCLIST = SizePrior("cyclist", (1.75, 0.6, 1.72), (0.10, 0.20, 0.06))
MOTORCYCLIST = SizePrior("motorcyclist", (2.1, 0.75, 1.65), (0.12, 0.15, 0.10))


def _weighted(prior: SizePrior, weight: float) -> SizePrior:
    return SizePrior(prior.label, prior.size, prior.ratios, weight)


# By class of an image detector: the possible distributions. Classes that are not listed give no 3D
# boxes. Image detectors confuse cars, vans and trucks, so each has some weight for its neighbours.
CLASS_PRIORS: dict[str, tuple[SizePrior, ...]] = {
    "vehicle": (
        _weighted(CAR, 0.8),
        _weighted(VAN, 0.1),
        _weighted(TRUCK, 0.07),
        _weighted(BUS, 0.03),
    ),
    "car": (_weighted(CAR, 0.9), _weighted(VAN, 0.1)),
    "van": (_weighted(VAN, 0.8), _weighted(CAR, 0.2)),
    "truck": (_weighted(TRUCK, 0.6), _weighted(VAN, 0.25), _weighted(CAR, 0.15)),
    "bus": (_weighted(BUS, 0.85), _weighted(TRUCK, 0.15)),
    "person": (PEDESTRIAN,),
    "pedestrian": (PEDESTRIAN,),
    "cyclist": (CYCLIST,),
    "motorcyclist": (MOTORCYCLIST,),
}
