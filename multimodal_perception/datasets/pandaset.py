"""Reader of PandaSet (Xiao et al. 2021) in its own folder layout, as pandaset-devkit defines it.

    SEQUENCE/lidar/00.pkl.gz ... poses.json timestamps.json
    SEQUENCE/camera/NAME/00.jpg ... intrinsics.json poses.json timestamps.json
    SEQUENCE/annotations/cuboids/00.pkl.gz ...            labelled objects (optional)
    SEQUENCE/annotations/semseg/00.pkl.gz ... classes.json   class of each point (optional)
    SEQUENCE/meta/gps.json timestamps.json                (optional)

Points and cuboids are in the world frame; poses.json has the pose of the main LiDAR and of each camera
in it. The points are already corrected for the motion of the vehicle. A point belongs to the mechanical
360-degree LiDAR (column d is 0) or to the front-facing LiDAR (d is 1).

base_link is on the ground below the main LiDAR, x forward. The axes of the main LiDAR are x right and
y forward; if the optical axis of the front camera has another direction, this direction is used as
forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.pandaset_cuboids import (
    Cuboids,
)
from multimodal_perception.datasets.pandaset_files import (
    sequence_folders,
)
from multimodal_perception.datasets.pandaset_sequence import (
    FOOTPRINT,
    FOOTPRINT_OFFSET_X,
    LIDAR_NUMBERS,
    PandaSetSequence,
)
from multimodal_perception.frame import (
    Modality,
    SensorFrame,
)
from multimodal_perception.rig import Rig, Sensor


class PandaSetDataset(Dataset):
    """The frames of one sequence, or of all sequences of a folder, by sequence and time."""

    def __init__(self, root: str | Path) -> None:
        """root: a sequence, or the folder with the sequences. Raises DatasetError."""
        self.root = Path(root)
        folders = sequence_folders(self.root)
        if not folders:
            raise DatasetError(
                f"{self.root}: not a sequence of PandaSet: no lidar/poses.json with lidar/*.pkl.gz, "
                "nor in its subfolders"
            )
        self.sequences = [PandaSetSequence(folder) for folder in folders]
        self.name = f"pandaset {self.root.name}"
        cameras: dict[str, None] = {}
        for sequence in self.sequences:
            cameras |= dict.fromkeys(sequence.cameras)
        self.rig = pandaset_rig(list(cameras))
        self._index = [(s, k) for s in self.sequences for k in range(len(s))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one frame. Raises DatasetError, IndexError."""
        sequence, k = self._index[range(len(self))[index]]
        return sequence.frame(k, self.rig)

    def cuboids(self, index: int) -> Cuboids | None:
        """All columns of the labels of a frame, see Cuboids; None without annotations."""
        sequence, k = self._index[range(len(self))[index]]
        return sequence.cuboids(k)

    def point_classes(self, index: int) -> dict[str, NDArray[np.int64]] | None:
        """Number of the semantic class of each point of the sweeps of a frame, by LiDAR.

        None without annotations. The names are in `class_names` of the sequence. Raises DatasetError.
        """
        sequence, k = self._index[range(len(self))[index]]
        return sequence.point_classes(k)

    def gps(self, index: int) -> Mapping[str, float] | None:
        """lat and long in degrees, height in metres, xvel and yvel in m/s; None without GPS."""
        sequence, k = self._index[range(len(self))[index]]
        return sequence.gps(k)


def pandaset_rig(cameras: list[str]) -> Rig:
    """A rig of both LiDARs and the cameras. Each frame has the extrinsics."""
    sensors = {
        name: Sensor(name, Modality.LIDAR, f"/{name}/points", name, rate_hz=10.0)
        for name in LIDAR_NUMBERS
    }
    for name in cameras:
        sensors[name] = Sensor(
            name,
            Modality.CAMERA,
            f"/{name}/image_raw",
            f"{name}_optical",
            rate_hz=10.0,
            tolerance_s=0.11,
            camera_info_topic=f"/{name}/camera_info",
        )
    return Rig(
        "pandaset",
        sensors,
        odom_frame="map",
        footprint=FOOTPRINT,
        footprint_offset_x=FOOTPRINT_OFFSET_X,
    )
