"""Import of a detection network: recognises its outputs and writes the model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.decoders import DecoderSettings, Format
from multimodal_perception.detection.images.imported import ARCHITECTURE
from multimodal_perception.detection.images.output_layouts import LayoutError, recognise
from multimodal_perception.files import read_regular_file
from multimodal_perception.image_models.class_maps import (
    BOX_CLASSES,
    BOX_SYNONYMS,
    choose_classes,
    map_classes,
    read_class_file,
)
from multimodal_perception.image_models.class_names import DETECTION_SETS
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

MAX_PRIORS_BYTES = 64 << 20
# Roles of outputs that the user may assign.
ROLES = ("predictions", "boxes", "scores", "labels", "count", "priors")


@dataclass(frozen=True)
class DetectorImport:
    """What the user states about a network.

    classes: name of a data set, or path of a file. size, batch, layout: see open_network. preprocessing:
    values that differ from those usual for the format. decoder: values that differ from the recognised
    ones. outputs: name of an output by role. priors: .npy file with the priors of an ssd. licence: SPDX
    identifier of the weights.
    """

    path: Path
    format: Format
    classes: str
    size: tuple[int, int] | None = None
    batch: int | None = None
    layout: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    priors: Path | None = None
    licence: str = "unknown"


def import_detector(request: DetectorImport, rgb: NDArray[np.uint8], out: Path) -> ModelCard:
    """Write the model folder `out` and return its card.

    rgb: (H, W, 3) test image. Raises UserError that shows the inputs and outputs of an unsuitable file.
    """
    network = open_network(request.path, request.size, request.batch, request.layout)
    preprocessing = usual_preprocessing(request.format, network)
    try:
        preprocessing = replace(preprocessing, **request.preprocessing)
    except ValueError as error:
        raise UserError(f"preprocessing: {error}") from error
    outputs = test_outputs(network, rgb, preprocessing)
    if request.priors is not None:
        outputs |= _add_priors(network, request.priors)
    settings, counts = _recognise(request, network, outputs)
    names, user_map = _choose(request, network, counts)
    table = map_classes(names, user_map, BOX_SYNONYMS, BOX_CLASSES, f"--classes {request.classes}")
    specs = fix_outputs(network, outputs)
    card = ModelCard(
        name=model_name(out),
        architecture=ARCHITECTURE,
        inputs={network.input.name: network.spec},
        outputs=specs,
        licence=request.licence,
        task="Detects objects as 2D boxes in a visible image.",
        settings={
            "preprocessing": preprocessing.settings(),
            "decoder": _plain(settings),
            "class_map": table,
        },
        classes=names,
        notes=f"Imported from {request.path.name}, format {request.format}, classes {request.classes}.",
    )
    return write_model_folder(out, network, card)


def usual_preprocessing(format_: Format, network: NetworkFile) -> Preprocessing:
    """The preprocessing that networks of a format usually have."""
    layout: Any = network.layout
    if network.spec.dtype == "uint8":  # the network contains the normalisation
        return Preprocessing(layout, "stretch")
    if format_ == "yolox":
        return Preprocessing(layout, "letterbox", "top_left", order="BGR")
    if format_ in ("yolov8", "nms"):
        return Preprocessing(layout, "letterbox", scale=1 / 255)
    if format_ == "detr":
        return Preprocessing(layout, "stretch", scale=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Preprocessing(layout, "stretch", mean=(127.5,) * 3, std=(127.5,) * 3)


def _recognise(
    request: DetectorImport, network: NetworkFile, outputs: Mapping[str, NDArray[Any]]
) -> tuple[DecoderSettings, tuple[int, ...]]:
    allowed = [len(names) for names in DETECTION_SETS.get(request.classes, ())]
    if not allowed:
        allowed = [len(read_class_file(Path(request.classes), DETECTION_SETS)[0])]
    names = _assigned_outputs(request, network, outputs)
    try:
        arrays = {role: outputs[name] for role, name in names.items()}
        layout = recognise(
            request.format, arrays, network.size, allowed, request.priors is not None
        )
    except LayoutError as error:
        raise network.file.error(f"--format {request.format}: {error}") from error
    settings = layout.settings
    settings = replace(settings, outputs={r: names[n] for r, n in settings.outputs.items()})
    try:
        settings = replace(settings, **request.decoder)
    except (TypeError, ValueError) as error:
        raise UserError(f"decoder settings: {error}") from error
    rows = settings.outputs.get("predictions", "") if settings.format == "nms" else ""
    if network.batch > 1 and rows and outputs[rows].shape[0] != network.batch:
        raise network.file.error(
            f"batch size {network.batch}: rows of several images in one table are not supported; export "
            "the network with a batch size of 1"
        )
    return settings, layout.counts


def _assigned_outputs(
    request: DetectorImport, network: NetworkFile, outputs: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Output by the name under which it is recognised: its role if the user assigned one."""
    for role, name in request.outputs.items():
        if role not in ROLES or name not in outputs:
            raise network.file.error(
                f"--output {role}={name}: expected one of {', '.join(ROLES)}, and an output of the file"
            )
    if request.outputs:
        return dict(request.outputs)
    return {name: name for name in outputs}


def _choose(
    request: DetectorImport, network: NetworkFile, counts: tuple[int, ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    try:
        return choose_classes(request.classes, DETECTION_SETS, counts)
    except UserError as error:
        raise network.file.error(str(error)) from error


def _add_priors(network: NetworkFile, path: Path) -> dict[str, NDArray[Any]]:
    """Add the priors (A, 4), cx cy w h from 0 to 1, in an .npy file as an output of the network."""
    import io

    content = read_regular_file(path, MAX_PRIORS_BYTES)
    try:
        priors = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not an .npy file with numbers ({error})") from error
    if not isinstance(priors, np.ndarray) or priors.dtype.kind != "f" or priors.shape[-1:] != (4,):
        raise UserError(f"{path}: expected an array [A, 4] of floating-point numbers")
    values = np.repeat(priors.reshape(1, -1, 4).astype(np.float32), network.batch, axis=0)
    network.file.add_constant_output("priors", values)
    return {"priors": values}


def _plain(settings: DecoderSettings) -> dict[str, Any]:
    """The settings that differ from the default ones, for the card."""
    default = DecoderSettings(settings.format, {})
    result: dict[str, Any] = {"format": settings.format, "outputs": dict(settings.outputs)}
    for key, value in vars(settings).items():
        if key not in result and value != getattr(default, key):
            result[key] = list(value) if isinstance(value, tuple) else value
    return result
