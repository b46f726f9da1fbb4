"""From the classes of an imported network to those of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from multimodal_perception.configuration import UserError, parse_yaml
from multimodal_perception.files import read_regular_file
from multimodal_perception.image_models.class_names import UNUSED

# Classes of 2D boxes. `vehicle` is any vehicle, for networks that do not distinguish them.
BOX_CLASSES = (
    "vehicle",
    "car",
    "van",
    "truck",
    "bus",
    "trailer",
    "person",
    "cyclist",
    "motorcyclist",
)
IGNORED = "ignored"
MAX_CLASS_FILE_BYTES, MAX_CLASSES = 1 << 20, 4096

_BOX_NAMES = {
    "vehicle": "vehicle",
    "car": "car automobile sedan suv suvpickuptruck pickup taxi",
    "van": "van minivan minibus caravan",
    "truck": "truck lorry",
    "bus": "bus coach tram truck_bus",
    "trailer": "trailer",
    "person": "person pedestrian people human child adult",
    "cyclist": "cyclist bicyclist bicycle bike rider",
    "motorcyclist": "motorcyclist motorcycle motorbike moped minibike motorcyclescooter",
}
_MASK_NAMES = {
    "road": """road lane lanemkgsdriv lanemkgsnondriv marking lane_marking parking roadshoulder
        dirt_track runway drivable drivable_area ground""",
    "sidewalk": "sidewalk pavement kerb curb path floor parkingblock",
    "vehicle": """vehicle car truck bus van train trailer caravan suvpickuptruck truck_bus othermoving
        tram""",
    "person": "person pedestrian human child people",
    "cyclist": """cyclist rider bicyclist bicycle motorcycle motorcyclist minibike
        motorcyclescooter""",
    "building": """building wall house skyscraper bridge tunnel archway hovel tower awning grandstand
        booth""",
    "vegetation": """vegetation tree terrain grass plant earth field palm hill mountain flower land sand
        vegetationmisc rock""",
    "pole": """pole polegroup column_pole streetlight traffic_light traffic_sign trafficlight signsymbol
        sign signboard column lamp light""",
    "sky": "sky",
}


def _synonyms(table: Mapping[str, str]) -> dict[str, str]:
    return {name: package_class for package_class, names in table.items() for name in names.split()}


# Package class by class name of a network, in lower case with underscores.
BOX_SYNONYMS, MASK_SYNONYMS = _synonyms(_BOX_NAMES), _synonyms(_MASK_NAMES)


def normalised(name: str) -> str:
    """A class name in lower case, with underscores between words."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def choose_classes(
    classes: str, sets: Mapping[str, Sequence[Sequence[str]]], counts: Sequence[int]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Class names of a network, in the order of its outputs, and a user's map of them ({} if none).

    classes: name of a data set in `sets`, or path of a file. counts: numbers of classes that the outputs
    allow; empty if they do not show it. Raises UserError if nothing fits.
    """
    user_map: dict[str, str] = {}
    if classes in sets and not Path(classes).is_file():
        lists = [tuple(names) for names in sets[classes]]
    else:
        names, user_map = read_class_file(Path(classes), sets)
        lists = [names]
    if not counts:
        return lists[0], user_map
    for count in counts:
        for names in lists:
            if len(names) == count:
                return names, user_map
    lengths = " or ".join(str(len(names)) for names in lists)
    wanted = " or ".join(str(count) for count in counts)
    raise UserError(f"--classes {classes}: {lengths} classes, but the network has {wanted}")


def read_class_file(
    path: Path, sets: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Class names in a file, and their package classes where the file contains them.

    A text file has one name per line. A YAML file is a list of names, or a mapping from name
    to package class, in the order of the network's outputs. Raises UserError.
    """
    if not path.exists():
        allowed = ", ".join(sets)
        raise UserError(f"--classes {path}: no such file; allowed: {allowed}, or a file of names")
    content = read_regular_file(path, MAX_CLASS_FILE_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason})") from error
    user_map: dict[str, str] = {}
    if path.suffix in (".yaml", ".yml"):
        values = parse_yaml(text, str(path))
        if isinstance(values, Mapping):
            user_map = {str(key): str(value) for key, value in values.items()}
            names = list(user_map)
        elif isinstance(values, list):
            names = [str(value) for value in values]
        else:
            raise UserError(
                f"{path}: expected a list of names, or a mapping from name to package class"
            )
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(names) <= MAX_CLASSES or any(len(n) > 200 for n in names):
        raise UserError(f"{path}: expected 1 to {MAX_CLASSES} class names of up to 200 characters")
    return tuple(names), user_map


def map_classes(
    names: Sequence[str],
    user_map: Mapping[str, str],
    synonyms: Mapping[str, str],
    allowed: Sequence[str],
    source: str,
) -> dict[str, str]:
    """Package class by class name of the network; classes that are not used are missing.

    user_map: chosen by the user; it replaces the synonyms. Raises UserError for an unknown package
    class, or if no class is used.
    """
    result = {}
    for name in names:
        package_class = (
            user_map.get(name, IGNORED) if user_map else synonyms.get(normalised(name), IGNORED)
        )
        if package_class not in (*allowed, IGNORED):
            raise UserError(
                f"{source}: {name}: {package_class!r} is not a class; allowed: {', '.join(allowed)}, "
                f"{IGNORED}"
            )
        if package_class != IGNORED and name != UNUSED:
            result[name] = package_class
    if not result:
        raise UserError(
            f"{source}: none of the {len(names)} classes is one of this package; map them in a YAML "
            f"file (name: package class); package classes: {', '.join(allowed)}"
        )
    return result
