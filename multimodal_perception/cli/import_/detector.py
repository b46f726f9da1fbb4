"""`import detector`: a published detection network becomes a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.cli.import_.image_options import (
    PICTURE,
    add_image_options,
    preprocessing_options,
    read_test_image,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.decoders import FORMATS
from multimodal_perception.runtime.card import ModelCard

# Smaller boxes than this on a test image hint at wrong units, pixels.
MIN_PLAUSIBLE_SIDE = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=FORMATS, required=True, help="format of the network's outputs"
    )
    add_image_options(parser, "coco")
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="of the boxes in the test image (default: 0.3)"
    )
    parser.add_argument(
        "--priors", type=Path, help="ssd: .npy file with prior boxes [A, 4], cx cy w h from 0 to 1"
    )
    group = parser.add_argument_group("outputs, where they are not recognised")
    group.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="an output of the file by role: predictions, boxes, scores, labels, count, priors",
    )
    group.add_argument(
        "--boxes", choices=("xyxy", "yxyx", "cxcywh"), help="order of a box's values"
    )
    group.add_argument("--units", choices=("pixels", "normalised"), help="units of the boxes")
    group.add_argument(
        "--scores", choices=("probabilities", "sigmoid", "softmax"), help="kind of scores"
    )
    group.add_argument(
        "--background",
        choices=("none", "first", "last"),
        help="position of the class without object",
    )
    group.add_argument("--first-class", type=int, help="number of the first class, 0 or 1")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.detection.images.import_detector import (
        DetectorImport,
        import_detector,
    )
    from multimodal_perception.visualization.sheet import save_png

    rgb = read_test_image(args.image)
    request = DetectorImport(
        args.file,
        args.format,
        args.classes,
        None if args.size is None else (args.size[0], args.size[1]),
        args.batch,
        args.layout,
        preprocessing_options(args),
        _decoder_options(args),
        _outputs(args.output),
        args.priors,
        args.licence,
    )
    card = import_detector(request, rgb, args.out)
    picture, lines = _test(card, rgb, args.min_score)
    save_png(args.out / PICTURE, picture)
    for line in (*_description(card), *lines, f"{args.out / PICTURE}: the boxes in the test image"):
        print(line)
    print(f"pipeline.image_detector: imported, pipeline.imported_detector.model: {args.out}")
    return 0


def _decoder_options(args: argparse.Namespace) -> dict[str, Any]:
    keys = ("boxes", "units", "scores", "background", "first_class")
    return {key: getattr(args, key) for key in keys if getattr(args, key) is not None}


def _outputs(values: list[str]) -> dict[str, str]:
    result = {}
    for value in values:
        role, equals, name = value.partition("=")
        if not equals or not name:
            raise UserError(f"--output {value}: expected ROLE=NAME")
        result[role] = name
    return result


def _description(card: ModelCard) -> list[str]:
    """The card in words."""
    name, spec = next(iter(card.inputs.items()))
    outputs = ", ".join(f"{n} {list(s.shape)}" for n, s in card.outputs.items())
    values = card.settings["preprocessing"]
    classes = card.settings["class_map"]
    return [
        f"{card.source}: input {name} {list(spec.shape)} {spec.dtype}; outputs {outputs}",
        "preprocessing: " + ", ".join(f"{key} {value}" for key, value in values.items()),
        "decoder: " + ", ".join(f"{k} {v}" for k, v in card.settings["decoder"].items()),
        f"classes: {len(card.classes)}, used: "
        + ", ".join(f"{k} as {v}" for k, v in classes.items()),
    ]


def _test(
    card: ModelCard, rgb: NDArray[np.uint8], min_score: float
) -> tuple[NDArray[np.uint8], list[str]]:
    """The test image with the boxes that the stage of the pipeline detects, and remarks."""
    from multimodal_perception.detection.images.config import ImageDetectorConfig
    from multimodal_perception.detection.images.imported import ImportedDetector
    from multimodal_perception.evaluation.single_image import CAMERA, single_image_frame
    from multimodal_perception.visualization.image_boxes_view import draw_image_boxes

    detector = ImportedDetector(ImageDetectorConfig(model="", min_score=min_score), card=card)
    frame = single_image_frame(np.ascontiguousarray(rgb[..., ::-1]))
    found = detector.detect(frame).get(CAMERA)
    if found is None:
        raise UserError(
            f"{card.source}: the network failed on the test image: {dict(detector.counts)}"
        )
    summary = detector.engine.timings.summary()
    lines = [
        f"{len(found)} boxes in the test image of {rgb.shape[1]}x{rgb.shape[0]} pixels with a score of "
        f"at least {min_score:g}; {detector.engine.name} on {detector.engine.device}, "
        f"{summary['min_ms']:.1f} ms"
    ]
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    if not len(found):
        lines.append(
            "no boxes: check the picture, the preprocessing and the classes, or state another --image"
        )
    elif float(np.median(sides)) < MIN_PLAUSIBLE_SIDE:
        lines.append("the boxes are very small: check --units, --boxes and --size")
    return draw_image_boxes(rgb, found), lines
