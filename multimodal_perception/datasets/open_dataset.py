"""Which reader fits a path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from multimodal_perception.datasets.bag import Bag
from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.datasets.nuscenes_tables import NuScenes, tables_folder
from multimodal_perception.datasets.shards import ShardFolder
from multimodal_perception.datasets.simulated import PREFIX, open_simulation
from multimodal_perception.datasets.simulation_writer import SHARD_RECORD
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.rig import Rig

DatasetName = Literal["kitti", "nuscenes", "bag", "synthetic", "simulated", "shards"]
DATASET_NAMES: tuple[DatasetName, ...] = (
    "kitti",
    "nuscenes",
    "bag",
    "synthetic",
    "simulated",
    "shards",
)
PATH_HELP = "dataset folder, bag, shards, `synthetic`, or a drive: simulated:SCENARIO,seed=N,night"


def open_dataset(
    path: str | Path, name: DatasetName | None = None, rig: Rig | None = None
) -> Dataset:
    """Open recorded data; without a name, what lies at the path decides.

    "synthetic" as path or name needs no data, nor does a simulated drive: see simulated.SYNTAX. `rig`
    is for bags and simulated drives alone.

    Raises DatasetError when nothing fits or the data cannot be read.
    """
    if name == "simulated" or (name is None and _simulated(str(path))):
        return open_simulation(str(path), rig)
    path = Path(path)
    if name is None:
        name = _recognise(path)
    if rig is not None and name != "bag":
        raise DatasetError(f"{path}: {name} has its own rig")
    if name == "kitti":
        return Kitti(path)
    if name == "nuscenes":
        return NuScenesSample(path) if (path / "frame.json").is_file() else NuScenes(path)
    if name == "synthetic":
        return SyntheticStreet()
    if name == "shards":
        return ShardFolder(path)
    return Bag(path, rig)


def _simulated(path: str) -> bool:
    return path.partition(":")[0].partition(",")[0] == PREFIX and not Path(path).exists()


def _recognise(path: Path) -> DatasetName:
    if str(path) == "synthetic" and not path.exists():
        return "synthetic"
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").is_file():
        return "bag"
    if (path / "frame.json").is_file() or tables_folder(path) is not None:
        return "nuscenes"
    if (path / "velodyne").is_dir():
        return "kitti"
    if (path / SHARD_RECORD).is_file():
        return "shards"
    raise DatasetError(
        f"{path}: not a KITTI folder (velodyne/), nuScenes (v1.0-*/sample.json, or one sample's "
        f"frame.json), a rosbag2 or simulated shards ({SHARD_RECORD})"
    )
