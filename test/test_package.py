"""Package files: dependencies, installed data, launch files, message definitions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Type hashes of the released vision_msgs 4. ROS 2 does not connect topics whose hashes differ.
TYPE_HASHES = {
    "Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


@pytest.mark.parametrize("name", TYPE_HASHES)
def test_vision_msgs_has_the_hashes_of_the_release(name: str) -> None:
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    files = [Path(p) / "share/vision_msgs/msg" / f"{name}.json" for p in prefixes if p]
    content = json.loads(next(f for f in files if f.is_file()).read_text())
    hashes = {t["type_name"]: t["hash_string"] for t in content["type_hashes"]}
    assert hashes[f"vision_msgs/msg/{name}"] == TYPE_HASHES[name]


# Named only to recognise topics of other packages in bags and to explain why they are not used.
RECOGNISED_PACKAGES = {
    "autoware_perception_msgs",
    "ffmpeg_image_transport_msgs",
    "foxglove_msgs",
    "ouster_msgs",
    "ouster_sensor_msgs",
    "radar_msgs",
    "velodyne_msgs",
}


def test_every_imported_ros_package_is_declared() -> None:
    tree = ElementTree.parse(ROOT / "package.xml")
    declared = {e.text for e in tree.iter("exec_depend")}
    used: set[str] = set()
    named = re.compile(r"\b(\w+_msgs|builtin_interfaces)/msg/")
    imported = re.compile(r"^(?:from|import) (\w+_msgs|rclpy|rcl_interfaces)\b", re.M)
    for path in (ROOT / "multimodal_perception").rglob("*.py"):
        text = path.read_text()
        used |= {*named.findall(text)} - RECOGNISED_PACKAGES | {*imported.findall(text)}
    assert used and used <= declared


def test_data_files_are_installed(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "install_data", "--install-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    share = tmp_path / "share" / "multimodal_perception"
    for name in (
        "package.xml",
        "launch/perception.launch.py",
        "config/perception.yaml",
        "config/rigs/kitti.yaml",
        "config/rviz/perception.rviz",
        "config/dds/fastdds_shm.xml",
        "underlay/vision_msgs/msg/Detection3D.msg",
    ):
        assert (share / name).is_file(), name
    marker = tmp_path / "share/ament_index/resource_index/packages/multimodal_perception"
    assert marker.is_file()


def test_no_large_files_are_committed() -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    sizes = {n: (ROOT / n).stat().st_size for n in names if n and (ROOT / n).is_file()}
    large = {
        n: s
        for n, s in sizes.items()
        if s > 1 << 20 and not n.startswith("docs/") and not n.endswith((".safetensors", ".onnx"))
    }
    assert not large
