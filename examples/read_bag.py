"""Read a rosbag2 bag without a ROS installation: synchronised frames with calibration.

    python examples/read_bag.py my_bag --rig my_rig.yaml

Without --rig, the sensors are derived from the topics and message types of the bag. Without a path,
three frames of the synthetic street are first written to a temporary bag.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.rig import load_rig, resolve_rig_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="bag folder, .mcap or .db3 file")
    parser.add_argument("--rig", help="rig file, or the name of a shipped rig")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = args.path
        if path is None:
            path = Path(folder) / "bag"
            street = SyntheticDataset(frames=3)
            write_bag(street, street.rig, path, "mcap")
        rig = None if args.rig is None else load_rig(resolve_rig_path(args.rig))
        bag = BagDataset(path, rig)
        for name, sensor in bag.rig.sensors.items():
            print(f"sensor {name}: {sensor.modality.value} on {sensor.topic}")
        for index, frame in enumerate(bag):
            points = frame.points_in_base()
            images = ", ".join(f"{n} {i.pixels.shape}" for n, i in frame.cameras.items())
            missing = ", ".join(sorted(frame.missing)) or "none"
            print(f"frame {index}: {len(points)} points, images: {images}, missing: {missing}")
        for (source, reason), count in bag.drops.items():
            print(f"{source}: {count} messages dropped: {reason}")


if __name__ == "__main__":
    main()
