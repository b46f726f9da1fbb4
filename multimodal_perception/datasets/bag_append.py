"""Resuming an interrupted bag.

MCAP files cannot be appended to; the frames that follow are written to another file of the same bag, as
rosbag2 does when it splits a bag.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from multimodal_perception.configuration import ConfigurationError, load_yaml
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.messages.frame_messages import TRUTH
from multimodal_perception.yaml_reader import YamlDumper

METADATA = "metadata.yaml"
INFORMATION = "rosbag2_bagfile_information"
# Key of the custom data in a bag's metadata with the digest of the simulation.
SIMULATION_DIGEST_KEY = "simulation"


def count_frames(bag: Path, digest: str, first_topic: str) -> int:
    """Number of frames in a bag of one simulation.

    digest: digest of the simulation. first_topic: topic of the odometry, which is written first of each
    frame; the visibility of its ground truth is written last.

    Raises DatasetError for anything but an intact bag of this simulation.
    """
    information = _information(bag)
    custom_data = information.get("custom_data")
    if not isinstance(custom_data, dict) or SIMULATION_DIGEST_KEY not in custom_data:
        raise DatasetError(f"{bag}: exists already and is not the bag of a simulation")
    if custom_data[SIMULATION_DIGEST_KEY] != digest:
        raise DatasetError(f"{bag}: contains another simulation")
    counts = _counts(bag, information)
    frames = counts[f"{TRUTH}/visibility"]
    if counts[first_topic] != frames:
        raise DatasetError(f"{bag}: its last frame is incomplete; remove the bag and start again")
    return frames


def append_bag(bag: Path, part: Path) -> None:
    """Move the only file of the bag `part` into `bag` and add it to the metadata of `bag`.

    `bag` may be a folder without metadata, which becomes a bag. A part without messages is removed,
    unless it is the first one. Raises DatasetError if the metadata of either cannot be read, OSError if
    writing fails.
    """
    appended = _information(part)
    target = _information(bag) if (bag / METADATA).exists() else None
    try:
        file = part / appended["relative_file_paths"][0]
        if target is None:
            name = f"{bag.name}.mcap"
            file.replace(bag / name)
            appended["relative_file_paths"] = [name]
            appended["files"] = [{**entry, "path": name} for entry in appended["files"][:1]]
            _write_information(bag, appended)
        elif appended["message_count"]:
            number = len(target["relative_file_paths"])
            name = f"{bag.name}_{number}.mcap"
            file.replace(bag / name)
            _merge_metadata(target, appended, name)
            _write_information(bag, target)
    except (KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"{bag}: {METADATA}: not in rosbag2's format ({error!r})") from error
    for file in part.iterdir():
        file.unlink()
    part.rmdir()


def _merge_metadata(target: dict[str, Any], appended: dict[str, Any], name: str) -> None:
    start = min(_start(target), _start(appended))
    end = max(_start(i) + i["duration"]["nanoseconds"] for i in (target, appended))
    if not target["message_count"]:
        start = _start(appended)
    target["starting_time"]["nanoseconds_since_epoch"] = start
    target["duration"]["nanoseconds"] = max(0, end - start)
    target["message_count"] += appended["message_count"]
    target["relative_file_paths"].append(name)
    target["files"].append({**appended["files"][0], "path": name})
    topics = {t["topic_metadata"]["name"]: t for t in target["topics_with_message_count"]}
    for topic in appended["topics_with_message_count"]:
        existing = topics.get(topic["topic_metadata"]["name"])
        if existing is None:
            target["topics_with_message_count"].append(topic)
        else:
            existing["message_count"] += topic["message_count"]


def _start(information: dict[str, Any]) -> int:
    return int(information["starting_time"]["nanoseconds_since_epoch"])


def _write_information(bag: Path, information: dict[str, Any]) -> None:
    """Replace the metadata atomically, so that the bag is readable at any time."""
    partial = bag / f".{METADATA}"
    text = yaml.dump({INFORMATION: information}, Dumper=YamlDumper, sort_keys=False)
    partial.write_text(text, encoding="utf-8")
    partial.replace(bag / METADATA)


def _information(bag: Path) -> dict[str, Any]:
    path = bag / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{bag}: exists already and has no {METADATA}: not a bag, or one that was not closed"
        )
    try:
        content = load_yaml(path)
    except ConfigurationError as error:
        raise DatasetError(str(error)) from error
    information = content.get(INFORMATION) if isinstance(content, dict) else None
    if not isinstance(information, dict):
        raise DatasetError(f"{path}: {INFORMATION}: missing")
    return information


def _counts(bag: Path, information: dict[str, Any]) -> Counter[str]:
    """Number of messages of each topic."""
    try:
        topics = information["topics_with_message_count"]
        return Counter({t["topic_metadata"]["name"]: int(t["message_count"]) for t in topics})
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{bag}: {METADATA}: not in rosbag2's format ({error!r})") from error
