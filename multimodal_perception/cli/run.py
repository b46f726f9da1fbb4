"""Run perception_node without ros2 launch."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rig", required=True, help="rig file, or the name of a shipped rig")
    parser.add_argument("--parameters", type=Path, help="ROS parameter file")
    parser.add_argument(
        "--namespace", default="", help="namespace of the node and its output topics"
    )
    parser.add_argument(
        "--use-sim-time", action="store_true", help="use the time of the topic /clock"
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.ros import node, node_process

    node_process.prepare_environment()
    ros = ["--ros-args"]
    if args.parameters is not None:
        ros += ["--params-file", str(args.parameters)]
    if args.namespace:
        ros += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
    sim_time = str(args.use_sim_time).lower()
    ros += ["-p", f"rig:={args.rig}", "-p", f"use_sim_time:={sim_time}", "-p", "autostart:=true"]
    return node.main(["perception_node", *ros])
