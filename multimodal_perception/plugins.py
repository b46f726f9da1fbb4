"""User-defined stages, selected by an entry point's name or by `package.module:Class`.

A package registers a stage in its setup.py; the parameter pipeline.detector is then "my_detector":

    entry_points={"multimodal_perception.detectors": ["my_detector = my_package.module:MyDetector"]}

Without registration the parameter is "my_package.module:MyDetector". The class is called with keyword
arguments from the file pipeline.plugin_options (none by default) and must have the methods and
attributes of its protocol in `stages`. It need not import this package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from multimodal_perception import stages
from multimodal_perception.configuration import UserError, load_yaml


@dataclass(frozen=True)
class StageType:
    """A type of stage that can be replaced.

    parameter: the parameter of PipelineConfig that selects it. group: its entry point group.
    protocol: the interface that a class must have.
    """

    parameter: str
    group: str
    protocol: type


STAGE_TYPES = {
    stage_type.parameter: stage_type
    for stage_type in (
        StageType("detector", "multimodal_perception.detectors", stages.Detector),
        StageType("image_detector", "multimodal_perception.image_detectors", stages.ImageDetector),
        StageType("segmenter", "multimodal_perception.segmenters", stages.Segmenter),
        StageType("occupancy", "multimodal_perception.occupancy_mappers", stages.OccupancyMapper),
    )
}


def load_options(path: str) -> dict[str, Mapping[str, Any]]:
    """Constructor arguments of plug-ins, by parameter (detector, segmenter, ...), from a YAML file.

    An empty path gives no arguments. Raises UserError for a file that cannot be used.
    """
    if not path:
        return {}
    options = load_yaml(path)
    if not isinstance(options, Mapping):
        raise UserError(f"{path}: expected a mapping with keys of {', '.join(STAGE_TYPES)}")
    for key, value in options.items():
        if key not in STAGE_TYPES:
            raise UserError(f"{path}: {key}: unknown key; allowed: {', '.join(STAGE_TYPES)}")
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{path}: {key}: expected a mapping of constructor arguments")
    return dict(options)


def load_stage(
    parameter: str, name: str, builtin: Sequence[str], options: Mapping[str, Any] | None = None
) -> Any:
    """Construct a user-defined stage.

    parameter: key of STAGE_TYPES. name: of an installed entry point, or `package.module:Class`.
    builtin: names of the built-in stages, for the error message. options: keyword arguments of the
    class. Raises UserError if the name is unknown, the import or the constructor fails, or the object
    does not have all members of the protocol.
    """
    stage_type = STAGE_TYPES[parameter]
    where = f"pipeline.{parameter}: {name}"
    problem = name_error(parameter, name, builtin)
    if problem:
        raise UserError(f"pipeline.{problem}")
    factory = _load_class(stage_type, name)
    try:
        stage = factory(**(options or {}))
    except UserError:
        raise
    except Exception as error:  # code of the user
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    protocol = stage_type.protocol
    missing = sorted(m for m in _members(protocol) if not hasattr(stage, m))
    if missing:
        raise UserError(
            f"{where}: {type(stage).__name__} does not implement {protocol.__module__}."
            f"{protocol.__name__}: missing {', '.join(missing)}"
        )
    return stage


def name_error(parameter: str, name: str, builtin: Sequence[str]) -> str:
    """Why a name cannot be the value of a parameter, with the allowed values; empty if it can."""
    stage_type = STAGE_TYPES[parameter]
    module, separator, attribute = name.partition(":")
    if name in builtin or (module and separator and attribute):
        return ""
    installed = sorted(point.name for point in entry_points(group=stage_type.group))
    if name in installed:
        return ""
    return (
        f"{parameter}: {name!r} is not known; allowed: {', '.join(builtin)};"
        f" installed entry points ({stage_type.group}): {', '.join(installed) or 'none'};"
        " or package.module:Class"
    )


def _load_class(stage_type: StageType, name: str) -> Any:
    """The class (or other callable) of a valid name. Raises UserError."""
    where = f"pipeline.{stage_type.parameter}: {name}"
    installed = {point.name: point for point in entry_points(group=stage_type.group)}
    try:
        if name in installed:
            return installed[name].load()
        module, _, attribute = name.partition(":")
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
        return value
    except Exception as error:  # an import runs code of the user
        raise UserError(f"{where}: cannot import: {type(error).__name__}: {error}") from error


def _members(protocol: type) -> set[str]:
    """Names of the public methods and properties of a protocol and those that it extends."""
    classes = (
        c for c in protocol.__mro__ if c not in (Protocol, object) and c.__module__ != "typing"
    )
    return {name for c in classes for name in vars(c) if not name.startswith("_")}
