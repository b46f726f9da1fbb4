"""Calibrates the int8 version of a model, and of the models that it names, from recorded frames.

The models are written into the cache folder of the engines; the node uses them with the parameter
pipeline.runtime.precision: int8. Networks without a calibrated model then run in fp32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal_perception.configuration import UserError

if TYPE_CHECKING:
    from multimodal_perception.runtime.card import ModelCard

DEFAULT_FRAMES, COMPARED_FRAMES = 64, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of a shipped model, or a model folder with its card")
    parser.add_argument(
        "--calibrate",
        type=str,
        required=True,
        metavar="PATH",
        help="frames that give the ranges of the activations: bag, dataset, .npz inputs, or a drive "
        "such as simulated:urban_street,seed=3,frames=40",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=DEFAULT_FRAMES,
        help=f"number of frames, evenly spaced (default: {DEFAULT_FRAMES})",
    )
    parser.add_argument(
        "--cache",
        default="",
        help="cache folder; set pipeline.runtime.cache of the node to the same folder",
    )
    parser.add_argument(
        "--single",
        action="store_true",
        help="only this model, not the image, refinement and other networks that its card names",
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.configuration import build
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.runtime.quantization import NothingToQuantiseError
    from multimodal_perception.runtime.settings import RuntimeConfig

    values = {"precision": "int8", "cache": args.cache}
    config = build(RuntimeConfig, values, "arguments")
    card = load_card(args.model)
    calibrate(card, config.cache_folder, args.calibrate, args.frames)
    for part in [] if args.single else linked_cards(card)[1:]:
        try:
            calibrate(part, config.cache_folder, args.calibrate, args.frames)
        except NothingToQuantiseError:
            print(f"{part.name}: no 2D convolution to quantise; it runs in fp32")
    return 0


def linked_cards(card: ModelCard) -> list[ModelCard]:
    """The card, and the cards beside it that its settings name as parts of the same detector."""
    names = [*card.linked_models("images").values(), str(card.settings.get("refinement", ""))]
    return [card, *(card.sibling_card(name) for name in names if name)]


def calibrate(card: ModelCard, folder: Path, path: str, frames: int) -> None:
    """Write the int8 ONNX model of a card into a folder and print its differences to the original.

    Raises UserError for unreadable frames, a network without 2D convolutions, or a folder that cannot
    be written.
    """
    from tqdm import tqdm

    from multimodal_perception.datasets.network_inputs import recorded_inputs
    from multimodal_perception.runtime.cache import replace_file
    from multimodal_perception.runtime.precision import calibrated_path
    from multimodal_perception.runtime.quantization import output_differences, quantize_int8

    inputs = recorded_inputs(Path(path), card, frames)
    content = quantize_int8(card, tqdm(inputs, desc=card.name, unit="frame", leave=False))
    target = calibrated_path(card, folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(target, content)
    except OSError as error:
        raise UserError(f"{target}: {error.strerror or error}") from error
    print(f"{target}: {len(content) / 1e6:.1f} MB")
    compared = recorded_inputs(Path(path), card, COMPARED_FRAMES)
    for name, difference in output_differences(card, content, compared).items():
        print(f"  {name}: mean difference from fp32 {100 * difference:.2f} %")
