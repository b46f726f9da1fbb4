"""Compare the boxes of a detector with labels: recall, precision and nuScenes metrics.

    python examples/evaluate_detector.py ~/nuscenes --detector fusion

Any labelled dataset works (KITTI, nuScenes, shards, a simulated drive). Without a path, five frames
of the synthetic street are used. The command `multimodal-perception evaluate detections` does the
same with more options.
"""

from __future__ import annotations

import argparse

from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.evaluation.breakdown import breakdown, observable_labels
from multimodal_perception.evaluation.detections import DetectionScore
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline, open_detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="labelled dataset")
    parser.add_argument("--detector", default="geometric", help="geometric, shipped or a model")
    args = parser.parse_args()

    dataset = SyntheticDataset(frames=5) if args.path is None else open_dataset(args.path)
    config = PipelineConfig(occupancy="none")
    pipeline = build_pipeline(config, detector=open_detector(args.detector, config))
    score, frames = DetectionScore(), []
    for frame in dataset:
        if frame.labels is None:
            continue
        boxes = pipeline.process(frame).boxes
        score.add(boxes, frame)
        truth = frame.labels.select(observable_labels(frame.labels))
        frames.append(ScoredFrame(boxes, truth))
    metrics = breakdown(frames, NuScenesProtocol.for_classes(("car", "pedestrian", "cyclist")))
    print(f"{dataset.name}: {score.frames} labelled frames, detector {pipeline.detector.name}")
    print(f"recall at 1 m: {score.recall:.3f} ({score.matched_labels}/{score.labels})")
    print(f"precision at 1 m: {score.precision:.3f} ({score.matched_boxes}/{score.boxes})")
    print(f"mAP: {100 * metrics['map']:.1f}")
    for name, values in metrics["by_class"].items():
        if values["labels"]:
            print(f"AP {name}: {100 * values['ap']:.1f} ({values['labels']} labels)")


if __name__ == "__main__":
    main()
