"""The `multimodal-perception` command. COMMANDS lists every subcommand and the module that runs it.

A command module defines add_arguments(parser) and run(args) -> exit code. Only the module of the chosen
command is imported, because torch, Open3D and rclpy take seconds to import.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multimodal_perception import __version__
from multimodal_perception.cli.argument_ranges import check_values
from multimodal_perception.configuration import UserError
from multimodal_perception.extras import missing_package


@dataclass(frozen=True)
class Command:
    """A subcommand: its help text and either the module that runs it or its own subcommands.

    module: relative to multimodal_perception.cli, or an absolute dotted path.
    """

    help: str
    module: str = ""
    subcommands: Mapping[str, Command] = field(default_factory=dict)


# Errors of the operating system that the user can fix: no space, no permission, a removed disk.
STORAGE_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
)
BENCHMARKS = "multimodal_perception.benchmarks"

COMMANDS: dict[str, Command] = {
    "bench": Command(
        "measure the speed of a component and compare it with similar software",
        subcommands={
            "detector": Command(
                "time of the fusion detector per frame, compared with PointPillars",
                f"{BENCHMARKS}.detector",
            ),
            "engine": Command(
                "inference time of a model with every available engine", f"{BENCHMARKS}.engine"
            ),
            "evaluators": Command(
                "compare the detection metrics with nuscenes-devkit and a KITTI evaluator",
                f"{BENCHMARKS}.evaluators",
            ),
            "fuzz": Command(
                "feed mutated messages, files or frames and report unexpected failures",
                f"{BENCHMARKS}.fuzz",
            ),
            "intake": Command(
                "message intake over DDS: complete frames, CPU time, latency and memory",
                f"{BENCHMARKS}.intake",
            ),
            "latency": Command(
                "time of each step of a frame in the live node, from message to message over DDS",
                f"{BENCHMARKS}.latency",
            ),
            "occupancy": Command(
                "time of evidential occupancy on one core, compared with OctoMap",
                f"{BENCHMARKS}.occupancy",
            ),
            "simulate": Command(
                "speed and memory of the simulator, or a comparison of its sweeps with KITTI",
                f"{BENCHMARKS}.simulation",
            ),
            "soak": Command(
                "endurance of the live node while publishers are killed and clocks are wrong",
                f"{BENCHMARKS}.soak",
            ),
            "startup": Command(
                "start time of the command line and of the node, and of its imports by package",
                f"{BENCHMARKS}.startup",
            ),
            "sync": Command(
                "cost of the synchronizer, compared with message_filters",
                f"{BENCHMARKS}.synchronizer",
            ),
        },
    ),
    "calibrate": Command(
        "check the extrinsics of a rig",
        subcommands={
            "check": Command(
                "estimate how far the extrinsics of cameras, LiDARs and thermal cameras have drifted",
                ".calibrate",
            ),
        },
    ),
    "convert": Command("write a dataset as a rosbag2 bag that any ROS 2 tool can play", ".convert"),
    "demo": Command(
        "convert data to a bag, play it through DDS into the node, draw the results", ".demo"
    ),
    "doctor": Command(
        "list the installed software and the command that installs each missing part",
        ".doctor",
    ),
    "draw": Command(
        "draw a frame: cameras with boxes, top view of the sweep, occupancy, ground truth", ".draw"
    ),
    "evaluate": Command(
        "compare results with labelled data",
        subcommands={
            "ablation": Command(
                "compare the stages of the fusion detector on simulated drives by day and by night",
                ".evaluate.ablation",
            ),
            "agreement": Command(
                "compare the ONNX networks of a fusion detector with its torch networks",
                ".evaluate.agreement",
            ),
            "cameras": Command(
                "evaluate a detector with some cameras turned off, by viewing sector",
                ".evaluate.cameras",
            ),
            "calibration": Command(
                "estimate known shifts of visible and thermal pairs and known rotations of cameras",
                ".evaluate.calibration",
            ),
            "detections": Command(
                "compute detection metrics and stage times of the pipeline on labelled data",
                ".evaluate.detections",
            ),
            "image-detector": Command(
                "compute AP and recall of 2D boxes on real images, or AP and their position error on "
                "the ground on simulated drives",
                ".evaluate.image_detector",
            ),
            "image-fusion": Command(
                "compute six image-fusion metrics on aligned visible and thermal images",
                ".evaluate.image_fusion",
            ),
            "near-field": Command(
                "compute metrics of the near-field network on simulated drives, by day and by night",
                ".evaluate.near_field",
            ),
            "occupancy": Command(
                "compare occupancy with simulated ground truth, or with labels of real frames",
                ".evaluate.occupancy",
            ),
            "realism": Command(
                "compare a detector on recorded frames and on simulated drives of both profiles",
                ".evaluate.realism",
            ),
            "rigs": Command(
                "compare a detector on several rigs, with and without LiDAR and images",
                ".evaluate.rigs",
            ),
            "robustness": Command(
                "corrupt and attack every sensor, and report what it costs in detection, segmentation "
                "and occupancy",
                ".evaluate.robustness",
            ),
            "precision": Command(
                "compare engines and precisions of a fusion detector on simulated drives",
                ".evaluate.precision",
            ),
            "segmentation": Command(
                "compute mIoU of camera and thermal segmentation on real images or simulated drives",
                ".evaluate.segmentation",
            ),
            "tracking": Command(
                "compute MOTA, MOTP and identity switches of the tracks on labelled drives",
                ".evaluate.tracking",
            ),
            "subsets": Command(
                "evaluate one detector with every subset of the sensors on simulated drives",
                ".evaluate.subsets",
            ),
        },
    ),
    "export": Command(
        "export networks to ONNX and build TensorRT engines ahead of time",
        subcommands={
            "engine": Command("build the TensorRT engine of a model", ".export.engine"),
            "image-detector": Command(
                "write a trained image detector as ONNX, weights and model card",
                ".export.image_detector",
            ),
            "int8": Command(
                "calibrate the int8 version of a model for OpenVINO, ONNX Runtime and TensorRT",
                ".export.int8",
            ),
            "image-fusion": Command(
                "write a trained image-fusion network for another image size",
                ".export.image_fusion",
            ),
        },
    ),
    "import": Command(
        "convert published weights to a model folder with ONNX and model card",
        subcommands={
            "detector": Command(
                "boxes in images by an ONNX network of the formats YOLOX, YOLOv8, DETR, SSD or with NMS",
                ".import_.detector",
            ),
            "segmenter": Command(
                "classes of pixels by an ONNX network for Cityscapes, CamVid, ADE20K or other classes",
                ".import_.segmenter",
            ),
            "twinlitenet": Command(
                "drivable area and lanes of a published TwinLiteNet checkpoint (best.pth)",
                ".import_.twinlitenet",
            ),
        },
    ),
    "replay": Command(
        "play a dataset or bag over DDS into a new or running node and measure its latency",
        ".replay",
    ),
    "rig": Command(
        "check a rig file",
        subcommands={
            "check": Command(
                "check a rig file, draw its fields of view, compare it with the topics of a bag",
                ".rig",
            ),
        },
    ),
    "run": Command("run perception_node on the topics of a rig until Ctrl-C", ".run"),
    "simulate": Command(
        "simulate a drive: all sensors of a rig, odometry and ground truth, written to a rosbag2 bag",
        ".simulate",
    ),
    "train": Command(
        "train a network on simulated drives or images",
        subcommands={
            "image-detector": Command(
                "render simulated drives and train the image detector on them",
                ".train.image_detector",
            ),
            "image-fusion": Command(
                "train visible-thermal image fusion (MoE-Fusion) on aligned pairs",
                ".train.image_fusion",
            ),
            "label-images": Command(
                "label real images with networks as teachers, for training on them",
                ".train.label_images",
            ),
            "near-field": Command(
                "train the near-field network of fisheye cameras and ultrasonic sensors",
                ".train.near_field",
            ),
            "recipe": Command(
                "train a network completely: render data, train, export, evaluate, write the model card",
                ".train.recipe",
            ),
            "segmentation": Command(
                "render simulated drives and train camera and thermal segmentation (CMX) on them",
                ".train.segmentation",
            ),
        },
    ),
    "view": Command(
        "watch sensors and results of a running node or of recorded data in a browser", ".view"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Exit codes: 0 success, 1 a check failed, 2 unusable input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names may have bytes that the terminal's encoding does not have.
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="multimodal-perception",
        description="3D boxes and BEV occupancy from cameras, LiDAR, thermal and ultrasonic "
        "sensors.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    try:
        _add_commands(parser, COMMANDS, arguments, "COMMAND")
        namespace = parser.parse_args(arguments)
        if not hasattr(namespace, "run"):
            parser.print_help()
            return 2
        return int(namespace.run(namespace))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        print(f"error: {missing}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the pipe (head, less) has exited, which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _add_commands(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, Command],
    arguments: Sequence[str],
    metavar: str,
) -> None:
    """Add a subparser for each command; only the one selected by `arguments` gets its arguments."""
    subparsers = parser.add_subparsers(metavar=metavar, required=metavar != "COMMAND")
    selected = arguments[0] if arguments else ""
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name != selected:
            continue
        if command.subcommands:
            _add_commands(subparser, command.subcommands, arguments[1:], "SUBCOMMAND")
        else:
            module = importlib.import_module(command.module, "multimodal_perception.cli")
            module.add_arguments(subparser)
            check_values(subparser)
            subparser.set_defaults(run=module.run)


if __name__ == "__main__":
    sys.exit(main())
