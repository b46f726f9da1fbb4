"""Time of each step of a frame in the live node, over DDS, from the last message to the boxes.

One process publishes synthetic frames of a rig at a steady rate; perception_node runs in another one.
The node states on perception/timing how long each step took; the report shows their medians and 95th
percentiles, the rates, the losses and the CPU time of the node per frame. CPU time hardly depends on
other programs, latency does: measure it on an idle computer.
"""

from __future__ import annotations

import dataclasses
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    add_seconds_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import Dataset
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.processor import processor_name
from multimodal_perception.sample_frame import sample_frame

DEFAULT_SECONDS, FRAMES = 60.0, 8
# Steps in the order in which a frame passes them; the last ones do not delay the boxes.
BEFORE_BOXES = (
    "intake_queue",
    "decode",
    "inference_queue",
    "image_quality",
    "ground",
    "image_detect",
    "segment",
    "detect",
    "track",
    "on_boxes",
)
AFTER_BOXES = ("fuse_images", "near_field", "occupancy", "publish_others")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rig", default="kitti", help="rig whose sensors are published (default: kitti)"
    )
    parser.add_argument(
        "--modalities",
        nargs="+",
        choices=[m.value for m in Modality],
        help="publish only these sensors of the rig (default: all)",
    )
    parser.add_argument("--detector", default="auto", help="parameter pipeline.detector")
    parser.add_argument(
        "--networks",
        action="store_true",
        help="also run segmentation, image detector, image fusion and near field",
    )
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second [Hz]")
    parser.add_argument("--parameters", type=Path, help="ROS parameter file of the node")
    add_seconds_argument(parser, DEFAULT_SECONDS)
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    if not 0.1 <= args.rate <= 1000.0:
        raise UserError(f"--rate: allowed: 0.1 to 1000; got {args.rate:g}")
    print_report("latency", measure(args), args.json)
    return 0


class SyntheticRigDataset(Dataset):
    """Synthetic frames of a rig, see sample_frame."""

    def __init__(self, rig: Rig) -> None:
        self.name, self.rig = f"synthetic frames of {rig.name}", rig
        self._frames = [sample_frame(rig, step) for step in range(FRAMES)]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> SensorFrame:
        return self._frames[index]


def measure(args: Namespace) -> dict[str, Any]:
    """Run the node and publish to it; return the report. Raises UserError if the node does not start."""
    from multimodal_perception.ros import replay
    from multimodal_perception.ros.node_process import perception_process
    from multimodal_perception.ros.replay_statistics import summarise

    rig = select_sensors(load_rig(resolve_rig_path(args.rig)), args.modalities)
    dataset = SyntheticRigDataset(rig)
    settings = {"pipeline.detector": args.detector}
    if args.networks:
        settings |= network_settings(rig)
    loops = max(round(args.seconds * args.rate / FRAMES), 1)
    usage: list[float] = []
    with perception_process(rig, args.parameters, settings) as node:
        process = psutil.Process(node.pid)

        def on_frame(count: int) -> None:
            if count == 0 or count == loops * FRAMES - 1:
                times = process.cpu_times()
                usage.append(times.user + times.system)

        replayed = replay.play(dataset, args.rate, loops, 600.0, on_frame, node)
    report = summarise(replayed)
    sent, answered = report["sent"], report["received"]
    sensors = {m.value: len(rig.sensors_of(m)) for m in Modality if rig.sensors_of(m)}
    points = [len(s.points) for s in dataset[0].lidars.values()]
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "sensors": sensors,
        "points_per_sweep": points,
        "rate_hz": args.rate,
        "detector": args.detector,
        "frames_sent": sent,
        "frames_answered": answered,
        "answered_percent": 100.0 * answered / max(sent, 1),
        "answered_hz": args.rate * answered / max(sent, 1),
        "cpu_ms_per_frame": 1e3 * (usage[-1] - usage[0]) / max(answered, 1),
        "latency_ms": report["latency_ms"],
        "steps_ms": steps(report),
        "engines": report["engines"],
        "counts": report["node_counts"],
    }


def select_sensors(rig: Rig, modalities: list[str] | None) -> Rig:
    """The rig with the sensors of some modalities. Raises UserError if there are none."""
    wanted = [m.value for m in Modality] if modalities is None else modalities
    sensors = {n: s for n, s in rig.sensors.items() if s.modality.value in wanted}
    if not sensors:
        raise UserError(f"--modalities: the rig {rig.name} has no sensors of {', '.join(wanted)}")
    return dataclasses.replace(rig, sensors=sensors)


def network_settings(rig: Rig) -> dict[str, str]:
    """Parameters that enable all networks that the sensors of a rig can use."""
    settings = {}
    if rig.sensors_of(Modality.CAMERA) or rig.sensors_of(Modality.THERMAL):
        settings["pipeline.segmenter"] = "rgb_thermal"
        settings["pipeline.image_detector"] = "rgb_thermal"
        settings["pipeline.near_field.model"] = "near_field"
    if rig.sensors_of(Modality.CAMERA) and rig.sensors_of(Modality.THERMAL):
        settings["pipeline.image_fusion.model"] = "image_fusion"
    return settings


def steps(report: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Percentiles of each step of a frame. report: of replay.summarise.

    `transport` is the difference between the percentiles of the latency and those of the time inside of
    the node: DDS in both directions, from the publication of the last message to the node's executor,
    and from the publication of the boxes to this process.
    """
    stage_ms, latency = report["stage_ms"], report["latency_ms"]
    inside = stage_ms.get("node", {})
    result: dict[str, Mapping[str, float]] = {
        "transport": {name: latency[name] - inside.get(name, float("nan")) for name in latency}
    }
    for step in (*BEFORE_BOXES, *AFTER_BOXES):
        if step in stage_ms:
            result[step] = stage_ms[step]
    return result
