"""`import segmenter`: a published segmentation network becomes a model folder."""

from __future__ import annotations

import argparse

import numpy as np

from multimodal_perception.cli.import_.image_options import (
    PICTURE,
    add_image_options,
    preprocessing_options,
    read_test_image,
)
from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_options(parser, "cityscapes, camvid, ade20k")
    parser.add_argument(
        "--output", default="", help="name of the output, where the file has several that fit"
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.evaluation.single_image import CAMERA, single_image_frame
    from multimodal_perception.segmentation.import_segmenter import (
        SegmenterImport,
        import_segmenter,
    )
    from multimodal_perception.segmentation.imported import (
        ImportedSegmenter,
        ImportedSegmenterConfig,
    )
    from multimodal_perception.visualization.segmentation_view import draw_segmentation
    from multimodal_perception.visualization.sheet import save_png

    rgb = read_test_image(args.image)
    request = SegmenterImport(
        args.file,
        args.classes,
        None if args.size is None else (args.size[0], args.size[1]),
        args.batch,
        args.layout,
        preprocessing_options(args),
        args.output,
        args.licence,
    )
    card = import_segmenter(request, rgb, args.out)
    segmenter = ImportedSegmenter(ImportedSegmenterConfig(), card=card)
    frame = single_image_frame(np.ascontiguousarray(rgb[..., ::-1]))
    mask = segmenter.segment(frame).get(CAMERA)
    if mask is None:
        raise UserError(
            f"{card.source}: the network failed on the test image: {dict(segmenter.counts)}"
        )
    save_png(args.out / PICTURE, draw_segmentation(frame, mask))
    shares = np.bincount(mask.labels.ravel(), minlength=len(mask.class_names)) / mask.labels.size
    name, spec = next(iter(card.inputs.items()))
    outputs = ", ".join(f"{n} {list(s.shape)}" for n, s in card.outputs.items())
    values = card.settings["preprocessing"]
    used = card.settings["class_map"].items()
    engine = segmenter.engine
    print(
        f"{card.source}: input {name} {list(spec.shape)} {spec.dtype}; outputs {outputs}",
        "preprocessing: " + ", ".join(f"{key} {value}" for key, value in values.items()),
        "output: " + ", ".join(f"{k} {v}" for k, v in card.settings["output"].items()),
        f"classes: {len(card.classes)}, used: " + ", ".join(f"{k} as {v}" for k, v in used),
        "test image: "
        + ", ".join(f"{n} {100 * s:.0f} %" for n, s in zip(mask.class_names, shares, strict=True))
        + f"; {engine.name} on {engine.device}, {engine.timings.summary()['min_ms']:.1f} ms",
        f"{args.out / PICTURE}: the classes in the test image",
        f"pipeline.segmenter: imported, pipeline.imported_segmenter.model: {args.out}",
        sep="\n",
    )
    return 0
