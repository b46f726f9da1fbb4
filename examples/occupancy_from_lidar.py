"""Accumulate an occupancy grid over several frames of a drive and print its content.

    python examples/occupancy_from_lidar.py simulated:parking_lot,seed=2,frames=5

Any dataset, bag or simulated drive can be given. The evidential mapper needs odometry to accumulate
while the vehicle moves; without it, the grid shows only the last frame. Without a path, three
frames of a simulated parking lot are used.
"""

from __future__ import annotations

import argparse

from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", default="simulated:parking_lot,seed=2,frames=3")
    args = parser.parse_args()

    dataset = open_dataset(args.path)
    pipeline = build_pipeline(PipelineConfig(detector="geometric", occupancy="evidential"))
    for index, frame in enumerate(dataset):
        grid = pipeline.process(frame).occupancy
        free, occupied = (mass > 0.5 for mass in (grid.free, grid.occupied))
        area = grid.resolution**2
        print(
            f"{dataset.name}, frame {index}: grid {grid.free.shape} of {grid.resolution:g} m cells, "
            f"free {free.sum() * area:.0f} m2, occupied {occupied.sum() * area:.0f} m2, "
            f"unknown {(~free & ~occupied).sum() * area:.0f} m2"
        )


if __name__ == "__main__":
    main()
