"""Detect objects in all frames of a dataset folder and print the boxes.

    python examples/detect_in_kitti_folder.py ~/kitti/training

The folder has KITTI's layout (velodyne/, image_2/, calib/). Other datasets and bags work as well,
because the format is detected from the files. Without a path, ten frames of the built-in synthetic
street are used.
"""

from __future__ import annotations

import argparse

import numpy as np

from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", default="synthetic", help="dataset folder or bag")
    parser.add_argument("--detector", default="geometric", help="geometric, fusion or auto")
    args = parser.parse_args()

    dataset = open_dataset(args.path)
    # The occupancy grid is not needed here.
    pipeline = build_pipeline(PipelineConfig(detector=args.detector, occupancy="none"))
    for index, frame in enumerate(dataset):
        result = pipeline.process(frame)
        boxes = result.boxes
        print(
            f"{dataset.name}, frame {index}: {len(boxes)} boxes in {result.stage_ms['total']:.0f} ms"
        )
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True):
            x, y, z, length, width, height, yaw = box
            print(
                f"  {boxes.class_names[label]:10s} score {score:.2f}  centre ({x:6.2f}, {y:6.2f},"
                f" {z:5.2f}) m  size {length:.1f} x {width:.1f} x {height:.1f} m"
                f"  yaw {np.degrees(yaw):4.0f} deg"
            )


if __name__ == "__main__":
    main()
