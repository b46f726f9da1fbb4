"""Import of a segmentation network: recognises its output and writes the model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.image_models.class_maps import (
    MASK_SYNONYMS,
    choose_classes,
    map_classes,
    read_class_file,
)
from multimodal_perception.image_models.class_names import SEGMENTATION_SETS
from multimodal_perception.image_models.importing import (
    NetworkFile,
    fix_outputs,
    model_name,
    open_network,
    test_outputs,
    write_model_folder,
)
from multimodal_perception.image_models.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
)
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.segmentation.imported import ARCHITECTURE, SegmenterOutput


@dataclass(frozen=True)
class SegmenterImport:
    """What the user states about a network.

    classes: name of a data set, or path of a file. size, batch, layout: see open_network. preprocessing:
    values that differ from the usual ones (letterbox, ImageNet's mean and standard deviation). output:
    name of the output, where there are several. licence: SPDX identifier of the weights.
    """

    path: Path
    classes: str
    size: tuple[int, int] | None = None
    batch: int | None = None
    layout: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    licence: str = "unknown"


def import_segmenter(request: SegmenterImport, rgb: NDArray[np.uint8], out: Path) -> ModelCard:
    """Write the model folder `out` and return its card.

    rgb: (H, W, 3) test image. Raises UserError that shows the inputs and outputs of an unsuitable file.
    """
    network = open_network(request.path, request.size, request.batch, request.layout)
    layout: Any = network.layout
    preprocessing = Preprocessing(layout, "stretch")
    if network.spec.dtype != "uint8":  # else the network contains the normalisation
        preprocessing = Preprocessing(
            layout, "stretch", scale=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
    try:
        preprocessing = replace(preprocessing, **request.preprocessing)
    except ValueError as error:
        raise UserError(f"preprocessing: {error}") from error
    outputs = test_outputs(network, rgb, preprocessing)
    allowed = [len(names) for names in SEGMENTATION_SETS.get(request.classes, ())]
    if not allowed:
        allowed = [len(read_class_file(Path(request.classes), SEGMENTATION_SETS)[0])]
    output, count = recognise_output(network, outputs, request.output, allowed)
    try:
        names, user_map = choose_classes(
            request.classes, SEGMENTATION_SETS, () if count is None else (count,)
        )
    except UserError as error:
        raise network.file.error(str(error)) from error
    source = f"--classes {request.classes}"
    table = map_classes(names, user_map, MASK_SYNONYMS, SEGMENTATION_CLASSES, source)
    specs = fix_outputs(network, outputs)
    card = ModelCard(
        name=model_name(out),
        architecture=ARCHITECTURE,
        inputs={network.input.name: network.spec},
        outputs=specs,
        licence=request.licence,
        task="Predicts the class of every pixel of a visible image.",
        settings={
            "preprocessing": preprocessing.settings(),
            "output": vars(output),
            "class_map": {n: label for n, label in table.items() if label != "other"},
        },
        classes=names,
        notes=f"Imported from {request.path.name}, classes {request.classes}.",
    )
    return write_model_folder(out, network, card)


def recognise_output(
    network: NetworkFile,
    outputs: Mapping[str, NDArray[Any]],
    name: str,
    class_counts: list[int],
) -> tuple[SegmenterOutput, int | None]:
    """The output with the classes of pixels, and the number of classes; None for label maps.

    name: of the output, or "" to recognise it. class_counts: numbers of classes of the lists that the
    user allows. Raises UserError that shows the outputs of the file.
    """
    if name and name not in outputs:
        raise network.file.error(f"--output {name}: not an output of the file")
    found = []
    for key, values in outputs.items():
        if name in ("", key):
            found += _interpretations(key, values, class_counts)
    # Networks with several outputs (auxiliary heads) have the main one first.
    if not found:
        counts = " or ".join(str(c) for c in class_counts)
        raise network.file.error(
            f"needed is an output [N, C, h, w] or [N, h, w, C] with C = {counts} class scores, or class "
            "numbers [N, h, w], [N, 1, h, w] or [N, h, w, 1]"
        )
    return found[0]


def _interpretations(
    name: str, values: NDArray[Any], class_counts: list[int]
) -> list[tuple[SegmenterOutput, int | None]]:
    if values.ndim == 4 and values.dtype.kind == "f":
        if values.shape[1] in class_counts:
            return [(SegmenterOutput(name), values.shape[1])]
        if values.shape[3] in class_counts:
            return [(SegmenterOutput(name, layout="NHWC"), values.shape[3])]
    if values.dtype.kind not in "iu" and not np.array_equal(values, np.rint(values)):
        return []
    highest, lowest = values.max(initial=0), values.min(initial=0)
    if lowest < 0 or highest > max(255, *class_counts):
        return []
    if values.ndim == 3:
        return [(SegmenterOutput(name, "labels", "NHW"), None)]
    if values.ndim == 4 and 1 in (values.shape[1], values.shape[3]):
        layout = "NCHW" if values.shape[1] == 1 else "NHWC"
        return [(SegmenterOutput(name, "labels", layout), None)]
    return []
