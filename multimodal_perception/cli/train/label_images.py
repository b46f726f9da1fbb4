"""`train label-images`: label real images with networks as teachers, for training on them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.open_dataset import PATH_HELP

SUFFIXES = (".jpg", ".jpeg", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder; existing images are kept")
    parser.add_argument("--images", type=Path, help=f"folder of images ({', '.join(SUFFIXES)})")
    parser.add_argument(
        "--root",
        help=f"camera images of recorded data, with boxes from its 3D labels: {PATH_HELP}",
    )
    parser.add_argument(
        "--frame-indices",
        type=int,
        nargs="+",
        metavar="N",
        help="with --root: indices of the frames, from 0 (default: all)",
    )
    parser.add_argument(
        "--segmenter",
        type=Path,
        required=True,
        nargs="+",
        metavar="FILE.onnx",
        help="networks with Cityscapes' 19 training classes; their probabilities are averaged",
    )
    parser.add_argument(
        "--detector", type=Path, required=True, metavar="FILE.onnx", help="YOLOX trained on COCO"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.training.image_labelling import (
        BoxTeacher,
        SegmentationTeacher,
        label_image,
    )
    from multimodal_perception.training.real_images import IMAGE, write_image

    if (args.images is None) == (args.root is None):
        raise UserError("label-images: exactly one of --images and --root is required")
    if args.frame_indices and args.root is None:
        raise UserError("--frame-indices needs --root")
    segmenter = SegmentationTeacher(args.segmenter, args.threads)
    detector = BoxTeacher(args.detector, args.threads)
    source = _files(args.images) if args.root is None else _frames(args.root, args.frame_indices)
    count = 0
    for name, read in tqdm(source, unit="image"):
        count += 1
        if not (args.out / f"{name}{IMAGE}").exists():
            pixels, labelled = read()
            write_image(args.out, label_image(name, pixels, segmenter, detector, labelled))
    if not count:
        raise UserError(f"{args.images or args.root}: no images")
    print(f"{args.out}: {count} labelled images")
    return 0


def _files(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names of the images of a folder, and functions that read them."""
    from multimodal_perception.datasets.file_limits import read_colour_image

    for path in sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES):
        yield path.stem, lambda path=path: (read_colour_image(path), None)


def _frames(root: str, indices: list[int] | None) -> Iterator[tuple[str, Any]]:
    """Names of the camera images of recorded frames, and functions that read them with their boxes."""
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.training.image_labelling import projected_boxes

    dataset = open_dataset(root)
    for index in indices if indices is not None else range(len(dataset)):
        if not 0 <= index < len(dataset):
            raise UserError(f"--frame-indices: allowed: 0 to {len(dataset) - 1}; got {index}")
        frame = dataset[index]
        for camera, image in frame.cameras.items():

            def read(frame: Any = frame, camera: str = camera, image: Any = image) -> Any:
                labelled = None if frame.labels is None else projected_boxes(frame, camera)
                return image.rgb(), labelled

            yield f"{dataset.name}_{index:06d}_{camera}", read
