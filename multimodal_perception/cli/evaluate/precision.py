"""`evaluate precision`: metrics of a detector with several engines and precisions on the same drives."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from typing import TYPE_CHECKING

from multimodal_perception.cli import detector_report, drive_options
from multimodal_perception.configuration import UserError

if TYPE_CHECKING:
    from multimodal_perception.stages import Detector

DEFAULT_ENGINES = ("onnxruntime:fp32", "openvino:bf16", "openvino:int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    drive_options.add_arguments(parser)
    parser.add_argument(
        "--detector",
        default="bev_fusion",
        help="name or folder of a model of a fusion detector (default: bev_fusion)",
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        default=list(DEFAULT_ENGINES),
        metavar="ENGINE:PRECISION",
        help=f"the compared rows, the reference first (default: {' '.join(DEFAULT_ENGINES)})",
    )
    parser.add_argument(
        "--cache",
        default="",
        help="cache folder with the int8 models of `export int8` (default: the user's)",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.detector_drives import DetectorSetup
    from multimodal_perception.frame import Modality

    drive_options.check_class_arguments(args)
    rig = drive_options.load_requested_rig(args)
    setups = {
        name: DetectorSetup(open_engine_detector(args.detector, name, args.cache), tuple(Modality))
        for name in args.engines
    }
    result = drive_options.evaluate_setups(args, rig, setups)
    result["detector"] = args.detector
    detector_report.print_report(f"precisions of {args.detector}", result, args.json)
    return 0


def open_engine_detector(model: str, name: str, cache: str) -> Detector:
    """Open a fusion detector with one engine and precision, with a low score threshold.

    name: "engine:precision". Raises UserError for a wrong name, or if a network of the detector cannot
    run with it.
    """
    from multimodal_perception.pipeline_builder import PipelineConfig, open_detector
    from multimodal_perception.runtime.settings import ENGINES, Precision, RuntimeConfig

    engine, _, precision = name.partition(":")
    if engine not in ENGINES or precision not in typing.get_args(Precision):
        raise UserError(
            f"--engines: {name!r}; allowed: one of {', '.join(ENGINES)}, a colon, and one of "
            f"{', '.join(typing.get_args(Precision))}"
        )
    runtime = RuntimeConfig(order=(engine,), precision=precision, cache=cache)  # type: ignore[arg-type]
    config = PipelineConfig(runtime=runtime)
    fusion = dataclasses.replace(config.fusion, min_score=drive_options.MIN_SCORE)
    detector = open_detector(model, dataclasses.replace(config, fusion=fusion))
    networks = [s for s in getattr(detector, "status", ()) if "precision" in s.values]
    others = [s for s in networks if s.values["precision"] != precision]
    reasons = []
    for status in others:
        found = [str(v) for k, v in status.values.items() if k.startswith("unavailable.")]
        reasons.append(f"{status.name}: {'; '.join(found)}")
    # Networks without 2D convolutions have no int8 version.
    if others and (precision != "int8" or len(others) == len(networks)):
        raise UserError(f"--engines: {name}: {reasons[0]}")
    for reason in reasons:
        print(f"{name}: runs in fp32: {reason}", file=sys.stderr)
    return detector
