"""Opens recorded or simulated data with the reader for its format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_files import is_bag
from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.datasets.nuscenes_tables import NuScenesDataset, tables_folder
from multimodal_perception.datasets.pandaset import PandaSetDataset
from multimodal_perception.datasets.pandaset_files import sequence_folders
from multimodal_perception.datasets.shards import ShardDataset
from multimodal_perception.datasets.simulated import PREFIX, open_simulation
from multimodal_perception.datasets.simulation_writer import SHARD_RECORD
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.rig import Rig

DatasetName = Literal["kitti", "nuscenes", "pandaset", "bag", "synthetic", "simulated", "shards"]
DATASET_NAMES: tuple[DatasetName, ...] = (
    "kitti",
    "nuscenes",
    "pandaset",
    "bag",
    "synthetic",
    "simulated",
    "shards",
)
PATH_HELP = "dataset folder, bag, shards, `synthetic`, or a drive: simulated:SCENARIO,seed=N,night"


def open_dataset(
    path: str | Path, name: DatasetName | None = None, rig: Rig | None = None
) -> Dataset:
    """Open recorded data. Without a name, the format is detected from the files at the path.

    "synthetic" as path or name needs no files, and neither does a simulated drive (simulated.SYNTAX).
    `rig` is only allowed for bags and simulated drives.

    Raises DatasetError if the format is not recognised or the data cannot be read.
    """
    if name == "simulated" or (name is None and _is_simulation(str(path))):
        return open_simulation(str(path), rig)
    path = Path(path)
    if name is None:
        name = detect_format(path)
    if rig is not None and name != "bag":
        raise DatasetError(
            f"{path}: {name} has its own rig; a rig is allowed for bags and simulated drives"
        )
    if name == "kitti":
        return KittiDataset(path)
    if name == "nuscenes":
        return (
            NuScenesSampleDataset(path)
            if (path / "frame.json").is_file()
            else NuScenesDataset(path)
        )
    if name == "pandaset":
        return PandaSetDataset(path)
    if name == "synthetic":
        return SyntheticDataset()
    if name == "shards":
        return ShardDataset(path)
    return BagDataset(path, rig)


def _is_simulation(path: str) -> bool:
    return path.partition(":")[0].partition(",")[0] == PREFIX and not Path(path).exists()


def detect_format(path: Path) -> DatasetName:
    """The format of a data set by its files. Raises DatasetError if it is none."""
    if str(path) == "synthetic" and not path.exists():
        return "synthetic"
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if is_bag(path):
        return "bag"
    if (path / "frame.json").is_file() or tables_folder(path) is not None:
        return "nuscenes"
    if (path / "velodyne").is_dir():
        return "kitti"
    if sequence_folders(path):
        return "pandaset"
    if (path / SHARD_RECORD).is_file():
        return "shards"
    raise DatasetError(
        f"{path}: format not recognised; expected a KITTI folder (velodyne/), nuScenes "
        "(v1.0-*/sample.json, or frame.json of a sample), PandaSet (lidar/poses.json), a rosbag2 bag "
        f"(metadata.yaml, .mcap, .db3) or simulated shards ({SHARD_RECORD})"
    )
