"""Targets of `bench fuzz files`: small valid files, one of which is mutated before they are read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from multimodal_perception.benchmarks.fuzzing.mutations import (
    mutate_bytes,
    mutate_json,
    mutate_yaml,
)
from multimodal_perception.configuration import build, load_yaml
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.datasets.nuscenes_tables import NuScenesDataset
from multimodal_perception.datasets.shards import ShardDataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.files import FileError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.resize import fit_image, fitted_model
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.resources import share_path
from multimodal_perception.rig import dump_rig, load_rig
from multimodal_perception.ros.arguments import check_arguments
from multimodal_perception.ros.parameters import NodeConfig
from multimodal_perception.runtime.card import load_card, write_card
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.world.scenarios import load_scenario
from multimodal_perception.training.bev_fusion.sample_files import read_sample
from multimodal_perception.training.recipe.configuration import load_recipe

IMAGE_SIZE = (48, 64)
POINTS = 60
IDENTITY = np.eye(4).tolist()


@dataclass(frozen=True)
class FileTarget:
    """One kind of input.

    write: writes a valid example into an empty folder. read: reads it; may raise UserError only.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]


def mutate_file(path: Path, rng: np.random.Generator) -> None:
    """Mutate a file in place, by its values if it is JSON or YAML."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = mutate_json(content, rng)
    elif path.suffix == ".yaml" and len(content) < 100_000:
        content = mutate_yaml(content, rng)
    else:
        content = mutate_bytes(content, rng)
    path.write_bytes(content)


def _synthetic_frames() -> list[SensorFrame]:
    """Two frames with few points and small images."""
    dataset = SyntheticDataset(2, rings=4, columns=40)
    frames = []
    for frame in dataset:
        camera = frame.cameras["camera"]
        model = fitted_model(frame.intrinsics["camera"], IMAGE_SIZE)
        pixels = fit_image(camera.pixels, IMAGE_SIZE)[: model.height, : model.width]
        cameras = {"camera": dataclasses.replace(camera, pixels=pixels)}
        frames.append(dataclasses.replace(frame, cameras=cameras, intrinsics={"camera": model}))
    return frames


def _write_kitti(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("velodyne", "calib", "label_2", "image_2"):
        (folder / name).mkdir()
    points = rng.uniform((2, -10, -2, 0), (40, 10, 2, 1), (POINTS, 4)).astype(np.float32)
    (folder / "velodyne/000000.bin").write_bytes(points.tobytes())
    calibration = (
        "P0: 1 0 0 0 0 1 0 0 0 0 1 0\nP2: 50 0 32 4 0 50 24 0 0 0 1 0\n"
        "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 -0.3\n"
    )
    (folder / "calib/000000.txt").write_text(calibration)
    (folder / "label_2/000000.txt").write_text(
        "Car 0.00 0 -1.57 10 20 30 40 1.5 1.6 3.9 1.0 1.7 10.0 -1.57\n"
        "DontCare -1 -1 -10 5 5 8 8 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )
    cv2.imwrite(str(folder / "image_2/000000.png"), np.zeros((*IMAGE_SIZE, 3), np.uint8))


def _write_nuscenes_sample(folder: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (POINTS, 5)).astype(np.float32)
    (folder / "1.pcd.bin").write_bytes(points.tobytes())
    name = "n__CAM_FRONT__1000000.jpg"
    cv2.imwrite(str(folder / name), np.zeros((*IMAGE_SIZE, 3), np.uint8))
    camera = {
        "img_path": name,
        "cam2img": [[50, 0, 32], [0, 50, 24], [0, 0, 1]],
        "cam2ego": IDENTITY,
        "lidar2cam": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    }
    sample = {
        "timestamp": 1.0,
        "lidar_points": {"lidar_path": "1.pcd.bin", "num_pts_feats": 5, "lidar2ego": IDENTITY},
        "images": {"CAM_FRONT": camera},
        "ego2global": IDENTITY,
        "instances": [
            {"bbox_3d": [5, 0, 0, 4, 2, 1.5, 0.1], "bbox_label_3d": 0, "velocity": [1.0, 0.0]}
        ],
    }
    content = {"metainfo": {"categories": {"car": 0}}, "data_list": [sample]}
    (folder / "frame.json").write_text(json.dumps(content))


def _write_nuscenes_tables(folder: Path) -> None:
    pose = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (POINTS, 5)).astype(np.float32)
    (folder / "0.pcd.bin").write_bytes(points.tobytes())
    data = {
        "token": "d",
        "sample_token": "s",
        "ego_pose_token": "e",
        "calibrated_sensor_token": "c",
        "timestamp": 1_000_000,
        "filename": "0.pcd.bin",
        "is_key_frame": True,
    }
    annotation = {
        "token": "a",
        "sample_token": "s",
        "instance_token": "i",
        "visibility_token": "1",
        "attribute_tokens": ["at"],
        "size": [2.0, 4.0, 1.5],
        "prev": "",
        "next": "",
        "num_lidar_pts": 3,
        **pose,
    }
    tables = {
        "scene": [{"token": "sc", "name": "scene-1"}],
        "sample": [{"token": "s", "scene_token": "sc", "timestamp": 1_000_000}],
        "sample_data": [data],
        "ego_pose": [{"token": "e", **pose}],
        "calibrated_sensor": [{"token": "c", "sensor_token": "se", "camera_intrinsic": [], **pose}],
        "sensor": [{"token": "se", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "sample_annotation": [annotation],
        "instance": [{"token": "i", "category_token": "ca"}],
        "category": [{"token": "ca", "name": "vehicle.car"}],
        "attribute": [{"token": "at", "name": "vehicle.moving"}],
        "visibility": [{"token": "1", "level": "v80-100"}],
    }
    (folder / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (folder / f"v1.0-mini/{name}.json").write_text(json.dumps(rows))


def _write_shards(folder: Path) -> None:
    rig = SyntheticDataset(1, rings=2, columns=4).rig
    (folder / "rig.yaml").write_text(dump_rig(rig))
    for index, frame in enumerate(_synthetic_frames()):
        labels = frame.labels
        assert labels is not None
        count = len(labels)
        arrays = {
            "stamp_ns": np.array(frame.stamp_ns),
            "truth.odom_from_base": np.eye(4),
            "truth.boxes": labels.boxes,
            "truth.labels": labels.labels.astype(np.uint8),
            "truth.visibility": np.ones(count, np.float32),
            "truth.velocities": np.zeros((count, 2), np.float32),
            "truth.track_ids": np.arange(count),
            "truth.num_points": np.zeros(count, np.int64),
            "truth.free": np.zeros((4, 4), np.bool_),
            "truth.occupied": np.zeros((4, 4), np.bool_),
            "truth.semantic_grid": np.zeros((4, 4), np.uint8),
            "lidar.points": frame.lidars["lidar"].points,
            "camera.pixels": frame.cameras["camera"].pixels,
        }
        np.savez_compressed(folder / f"{index:06d}.npz", allow_pickle=False, **arrays)


def _write_bag(storage: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rig = SyntheticDataset(1, rings=2, columns=4).rig
        write_bag(_synthetic_frames(), rig, folder / "bag", storage)  # type: ignore[arg-type]

    return write


def _read_bag(folder: Path) -> None:
    dataset = BagDataset(folder / "bag")
    for index in range(min(len(dataset), 4)):
        dataset[index]


def _copy(*names: str) -> Callable[[Path], None]:
    """Copy an installed file, relative to the package's share folder."""

    def write(folder: Path) -> None:
        shutil.copy(share_path(*names), folder / names[-1])

    return write


def _write_recipe(folder: Path) -> None:
    for file in Path(share_path("config", "training", "segmentation")).glob("*.yaml"):
        shutil.copy(file, folder)


def _write_model(folder: Path) -> None:
    for file in Path(share_path("config", "models", "near_field")).iterdir():
        shutil.copy(file, folder)


def _read_model(folder: Path) -> None:
    card = load_card(folder)
    card.check_files()
    open_model(card, RuntimeConfig(order=("onnxruntime",), threads=1, warm_up=0))


def _read_replaced_model(folder: Path) -> None:
    """Open a model whose card states the hash of the mutated file, as that of a careless author."""
    card = write_card(folder, load_card(folder), onnx="model.onnx")
    open_model(card, RuntimeConfig(order=("onnxruntime",), threads=1, warm_up=0))


def _read_parameters(folder: Path) -> None:
    path = folder / "perception.yaml"
    check_arguments(["--ros-args", "--params-file", str(path)])
    content = load_yaml(path)
    section = content.get("/**") if isinstance(content, dict) else None
    values = section.get("ros__parameters") if isinstance(section, dict) else None
    build(NodeConfig, values, str(path))


def _read_all(folder: Path) -> None:
    for path in sorted(folder.glob("*.npz")):
        try:
            read_npz(path)
        except FileError:
            read_sample(path)
            raise


def _read_frames(dataset: Callable[[Path], object]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        frames = dataset(folder)
        for index in range(min(len(frames), 4)):  # type: ignore[arg-type]
            frames[index]  # type: ignore[index]

    return read


FILE_TARGETS: dict[str, FileTarget] = {
    target.name: target
    for target in (
        FileTarget("rig", _copy("config", "rigs", "car.yaml"), lambda f: load_rig(f / "car.yaml")),
        FileTarget("parameters", _copy("config", "perception.yaml"), _read_parameters),
        FileTarget(
            "scenario",
            _copy("config", "scenarios", "warehouse.yaml"),
            lambda f: load_scenario(f / "warehouse.yaml"),
        ),
        FileTarget(
            "recipe",
            _write_recipe,
            lambda f: load_recipe(f / "recipe.yaml"),
        ),
        FileTarget("model", _write_model, _read_model),
        FileTarget("onnx", _write_model, _read_replaced_model),
        FileTarget("kitti", _write_kitti, _read_frames(KittiDataset)),
        FileTarget("nuscenes_sample", _write_nuscenes_sample, _read_frames(NuScenesSampleDataset)),
        FileTarget("nuscenes_tables", _write_nuscenes_tables, _read_frames(NuScenesDataset)),
        FileTarget("shards", _write_shards, _read_frames(ShardDataset)),
        FileTarget("npz", _write_shards, _read_all),
        FileTarget("bag_mcap", _write_bag("mcap"), _read_bag),
        FileTarget("bag_sqlite", _write_bag("sqlite3"), _read_bag),
    )
}
