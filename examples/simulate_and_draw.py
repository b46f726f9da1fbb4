"""Simulate one moment of a drive, run the pipeline on it and draw sensors, boxes and occupancy.

    python examples/simulate_and_draw.py --scenario intersection --condition night --out night.png

The same scenario, rig, seed and conditions always give the same data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.evaluation.detections import DetectionScore
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.visualization.sheet import draw_sheet, save_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="urban_street", help="name or path of a scenario")
    parser.add_argument("--rig", default="simulation", help="name or path of a rig file")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--frame", type=int, default=10, help="index at 10 frames per second")
    parser.add_argument("--condition", action="append", default=[], help="such as night or fog=80")
    parser.add_argument("--out", type=Path, default=Path("simulated_frame.png"))
    args = parser.parse_args()

    rig = load_rig(resolve_rig_path(args.rig))
    drive = Simulation(args.scenario, rig, args.seed, args.frame + 1, args.condition)
    frame = drive[args.frame]
    result = build_pipeline(PipelineConfig(detector="geometric")).process(frame)
    score = DetectionScore()
    score.add(result.boxes, frame)
    print(f"{drive.name}, seed {args.seed}: sensors {', '.join(sorted(frame.present))}")
    print(f"{len(result.boxes)} boxes; labels with a box: {score.matched_labels}/{score.labels}")
    title = f"{drive.name}, frame {args.frame}"
    save_png(args.out, draw_sheet(frame, result.boxes, result.occupancy, title))
    print(f"{args.out}: written")


if __name__ == "__main__":
    main()
