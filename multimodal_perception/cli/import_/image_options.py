"""Options that `import detector` and `import segmenter` have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURE = "test_image.png"


def add_image_options(parser: argparse.ArgumentParser, classes: str) -> None:
    """classes: names of the data sets that --classes accepts."""
    parser.add_argument("file", type=Path, help="ONNX file of the network")
    parser.add_argument(
        "--classes",
        required=True,
        metavar="NAME|FILE",
        help=f"classes of the outputs in their order: {classes}; a text file with one name per line; or "
        "a YAML file with a list of names, or with a mapping from name to class of this "
        "package",
    )
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument(
        "--image",
        type=Path,
        help=f"test image, drawn with the result as {PICTURE} in the folder (default: synthetic)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the network's image, where the file leaves it open",
    )
    parser.add_argument(
        "--batch", type=int, help="number of images in one run, where the file leaves it open"
    )
    parser.add_argument("--licence", default="unknown", help="SPDX identifier for the model card")
    group = parser.add_argument_group("preprocessing, where it differs from the usual one")
    group.add_argument("--layout", choices=("NCHW", "NHWC"), default="", help="axes of the image")
    group.add_argument("--resize", choices=("letterbox", "stretch"), help="how images are resized")
    group.add_argument(
        "--position", choices=("top_left", "centre"), help="of the image in a letterbox"
    )
    group.add_argument("--fill", type=int, help="value 0 to 255 of the rest of a letterbox")
    group.add_argument("--order", choices=("RGB", "BGR"), help="order of the channels")
    group.add_argument(
        "--scale", type=float, help="factor on the values 0 to 255, such as 0.00392157"
    )
    group.add_argument(
        "--mean", type=float, nargs=3, metavar="M", help="subtracted after scaling, by channel"
    )
    group.add_argument(
        "--std", type=float, nargs=3, metavar="S", help="divided by after subtraction, by channel"
    )


def preprocessing_options(args: argparse.Namespace) -> dict[str, Any]:
    """The preprocessing values that the user stated."""
    keys = ("resize", "position", "fill", "order", "scale", "mean", "std")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


def read_test_image(path: Path | None) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) in RGB order of a file, or of a synthetic street. Raises DatasetError."""
    from multimodal_perception.datasets.file_limits import read_colour_image
    from multimodal_perception.datasets.synthetic import SyntheticDataset

    if path is not None:
        return np.ascontiguousarray(read_colour_image(path)[..., ::-1])
    frame = SyntheticDataset(frames=1)[0]
    return np.ascontiguousarray(next(iter(frame.cameras.values())).rgb())
