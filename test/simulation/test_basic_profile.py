"""The profile basic gives the drives of version 0.2: figures on them can always be repeated.

basic_profile.npz contains readings of two frames, written before the profile realistic was added. The
comparison allows for other processors, which round differently.
"""

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.simulation.simulation import Simulation
from test.simulation.rigs import small_rig

GOLDEN = Path(__file__).with_name("basic_profile.npz")
DRIVES = (("intersection", 4, ("night",), 33), ("highway", 101, (), 12), ("warehouse", 3, (), 5))


def readings(
    name: str, seed: int, conditions: tuple[str, ...], index: int
) -> dict[str, np.ndarray]:
    """Boxes, and a sample of the points, pixels and depths of one frame."""
    simulation = Simulation(name, small_rig(), seed, index + 1, conditions, profile="basic")
    observation = simulation.observe(index)
    frame, truth = observation.frame, observation.truth
    arrays = {
        "boxes": truth.boxes.boxes,
        "labels": truth.boxes.labels,
        "velocities": truth.boxes.velocities,
        "points": frame.lidars["lidar"].points[::211],
        "count": np.array(len(frame.lidars["lidar"].points)),
        "ranges": np.array([u.range_m for u in frame.ultrasonics.values()]),
        "odom": truth.odom_from_base,
    }
    for camera, image in {**frame.cameras, **frame.thermals}.items():
        arrays[f"{camera}.pixels"] = image.pixels[::17, ::19]
        arrays[f"{camera}.depth"] = truth.views[camera].depth[::17, ::19]
        arrays[f"{camera}.semantics"] = truth.views[camera].semantics[::17, ::19]
    return {f"{name}.{key}": value for key, value in arrays.items()}


@pytest.mark.parametrize("drive", DRIVES, ids=[d[0] for d in DRIVES])
def test_drives_are_those_of_version_0_2(drive):
    with np.load(GOLDEN, allow_pickle=False) as golden:
        for key, values in readings(*drive).items():
            expected = golden[key]
            assert values.shape == expected.shape, key
            if values.dtype.kind in "iu" and "pixels" not in key:
                assert np.mean(values == expected) > 0.999, key
                continue
            # Infinite depths must be infinite in both.
            finite = [np.nan_to_num(v.astype(np.float64), posinf=1e6) for v in (values, expected)]
            difference = np.abs(finite[0] - finite[1])
            tolerance = 3.0 if "pixels" in key else 1e-3
            assert np.mean(difference <= tolerance) > 0.998, key
