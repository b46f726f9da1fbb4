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


def requirements(*names: str) -> list[str]:
    """Requirements of files in requirements/, with those of the files that they include."""
    lines = []
    for name in names:
        for line in Path(f"requirements/{name}.txt").read_text().splitlines():
            if line.startswith("-r "):
                lines += requirements(line[3:].removesuffix(".txt"))
            elif line and not line.startswith("#"):
                lines.append(line)
    return list(dict.fromkeys(lines))


# Packages by role, for example `pip install "multimodal_perception[node,bags]"`: docs/dependencies.md.
# `node` is not in install_requires: in a ROS distribution these packages come from apt; pip does not
# find all of them there (OpenCV) and would replace them. package.xml has the same by rosdep keys.
ROLES = ("bags", "sim", "report", "view", "openvino", "onnx", "ray", "train", "test")
EXTRAS = {"node": requirements("core"), **{role: requirements(role) for role in ROLES}}


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
