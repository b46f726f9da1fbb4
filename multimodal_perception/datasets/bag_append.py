"""Going on with an interrupted bag: MCAP cannot be appended to, so its next file, as rosbag2 splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from multimodal_perception.configuration import ConfigurationError, load_yaml
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.messages.frame_messages import TRUTH

METADATA = "metadata.yaml"
INFORMATION = "rosbag2_bagfile_information"
# The key under which a bag's metadata has a digest of what was simulated.
SIMULATION = "simulation"


def frames_in(bag: Path, told: str, first_topic: str) -> int:
    """How many frames of one simulation a bag holds; told: its digest.

    first_topic: that of each frame's odometry, which is written first; its truth is written last.
    Raises DatasetError for anything but a whole bag of this simulation.
    """
    information = _information(bag)
    custom = information.get("custom_data")
    if not isinstance(custom, dict) or SIMULATION not in custom:
        raise DatasetError(f"{bag}: exists already, and is no bag of a simulation")
    if custom[SIMULATION] != told:
        raise DatasetError(f"{bag}: holds another simulation")
    counts = _counts(bag, information)
    frames = counts[f"{TRUTH}/visibility"]
    if counts[first_topic] != frames:
        raise DatasetError(f"{bag}: its last frame is incomplete; remove it and begin anew")
    return frames


def add_part(bag: Path, part: Path) -> None:
    """Move the one file of the bag `part` into `bag` and enter it in its metadata.

    Raises DatasetError when either cannot be read, OSError when it cannot be written.
    """
    whole, more = _information(bag), _information(part)
    try:
        if more["message_count"]:
            number = len(whole["relative_file_paths"])
            name = f"{bag.name}_{number}.mcap"
            (part / more["relative_file_paths"][0]).replace(bag / name)
            _join(whole, more, name)
            _write(bag, whole)
    except (KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"{bag}: {METADATA}: not as rosbag2 writes it ({error!r})") from error
    for rest in part.iterdir():
        rest.unlink()
    part.rmdir()


def _join(whole: dict[str, Any], more: dict[str, Any], name: str) -> None:
    start = min(_start(whole), _start(more))
    end = max(_start(i) + i["duration"]["nanoseconds"] for i in (whole, more))
    if not whole["message_count"]:
        start = _start(more)
    whole["starting_time"]["nanoseconds_since_epoch"] = start
    whole["duration"]["nanoseconds"] = max(0, end - start)
    whole["message_count"] += more["message_count"]
    whole["relative_file_paths"].append(name)
    whole["files"].append({**more["files"][0], "path": name})
    topics = {t["topic_metadata"]["name"]: t for t in whole["topics_with_message_count"]}
    for topic in more["topics_with_message_count"]:
        known = topics.get(topic["topic_metadata"]["name"])
        if known is None:
            whole["topics_with_message_count"].append(topic)
        else:
            known["message_count"] += topic["message_count"]


def _start(information: dict[str, Any]) -> int:
    return int(information["starting_time"]["nanoseconds_since_epoch"])


def _write(bag: Path, information: dict[str, Any]) -> None:
    """Metadata in one step: the bag is readable at every moment."""
    partial = bag / f".{METADATA}"
    text = yaml.safe_dump({INFORMATION: information}, sort_keys=False)
    partial.write_text(text, encoding="utf-8")
    partial.replace(bag / METADATA)


def _information(bag: Path) -> dict[str, Any]:
    path = bag / METADATA
    if not path.is_file():
        raise DatasetError(f"{bag}: exists already and has no {METADATA}: no bag, or broken off")
    try:
        content = load_yaml(path)
    except ConfigurationError as error:
        raise DatasetError(str(error)) from error
    information = content.get(INFORMATION) if isinstance(content, dict) else None
    if not isinstance(information, dict):
        raise DatasetError(f"{path}: {INFORMATION}: missing")
    return information


def _counts(bag: Path, information: dict[str, Any]) -> Counter[str]:
    """Messages by topic."""
    try:
        topics = information["topics_with_message_count"]
        return Counter({t["topic_metadata"]["name"]: int(t["message_count"]) for t in topics})
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{bag}: {METADATA}: not as rosbag2 writes it ({error!r})") from error
