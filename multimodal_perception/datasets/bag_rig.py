"""The rig of a bag: stored in the bag by `convert`, or inferred from the topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multimodal_perception.configuration import parse_yaml
from multimodal_perception.datasets.bag_files import custom_data
from multimodal_perception.datasets.bag_topics import (
    Classification,
    TopicSample,
    classify_topics,
    info_topic,
    sample_topics,
)
from multimodal_perception.datasets.bag_writer import RIG_KEY
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import normalise_name
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.notices import Notices
from multimodal_perception.rig import Rig, Sensor, parse_rig
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
# Frames of the vehicle and of its odometry, preferred ones first (REP 105).
BASE_FRAMES = ("base_link", "base_footprint", "base", "ego_vehicle", "vehicle")
ODOM_FRAMES = ("odom", "odom_combined", "map", "world")
MAX_TF_MESSAGES = 500
# The measured rate of a topic is used if the bag has at least MIN_MESSAGES_FOR_RATE of its messages.
MIN_MESSAGES_FOR_RATE = 10
# Limits of the tolerance between the stamps of the sensors of one frame.
MIN_TOLERANCE_S, MAX_TOLERANCE_S = 0.06, 0.1
# Subject of the notices about the choice of the rig.
SUBJECT = "rig"

ACCEPTED = (
    Accepted(
        "Frames of a bag without a rig file",
        BASE_FRAMES,
        "base_frame: the first of these names in /tf and /tf_static, otherwise base_link. odom_frame: "
        "the first of " + ", ".join(ODOM_FRAMES) + " above it.",
        "Give a rig file.",
    ),
    Accepted(
        "Odometry of a bag without a rig file",
        ("/tf", "one topic of nav_msgs/Odometry"),
        "/tf if it has odom_frame to base_frame, otherwise the Odometry topic (notice).",
        "Several Odometry topics without /tf: none is used (notice).",
    ),
)


def rig_of_bag(path: Path, reader: AnyReader, notices: Notices) -> Rig:
    """The rig that is stored in a bag, or one that is inferred from its topics.

    notices: receives what each topic is taken for. Raises DatasetError if the bag has no sensor topic.
    """
    text = custom_data(reader, RIG_KEY)
    if text is not None:
        source = f"{path}: metadata.yaml: {RIG_KEY}"
        rig = parse_rig(parse_yaml(text, source), source)
        notices.add(SUBJECT, f"the rig {rig.name!r} that is stored in the bag is used")
        return rig
    return infer_rig(path, reader, notices)


def infer_rig(path: Path, reader: AnyReader, notices: Notices) -> Rig:
    """A rig from the topics; the extrinsics come from /tf_static. Raises DatasetError."""
    types = {c.topic: c.msgtype for c in reader.connections}
    parents = _parents(reader)
    base_frame, odom_frame = _vehicle_frames(parents)
    samples, classes = classify_bag(reader, parents, base_frame)
    sensors: dict[str, Sensor] = {}
    for topic, taken in classes.items():
        if taken.modality is None:
            notices.add(topic, f"not used: {taken.reason}")
            continue
        sensor = _sensor(samples[topic], taken.modality, types, sensors)
        sensors[sensor.name] = sensor
        text = f"taken as {taken.modality.value} {sensor.name!r}: {taken.reason}"
        notices.add(topic, text)
    if not sensors:
        reasons = "".join(f"\n  {t}: {c.reason}" for t, c in classes.items())
        topics = ", ".join(types) or "none"
        raise DatasetError(f"{path}: no sensor topic; the bag's topics: {topics}{reasons}")
    if (base_frame, odom_frame) != ("base_link", "odom"):
        notices.add(SUBJECT, f"base_frame is {base_frame!r} and odom_frame {odom_frame!r} by /tf")
    odometry_topic = _odometry_topic(types, parents, base_frame, odom_frame, notices)
    return Rig(path.stem, sensors, base_frame, odom_frame, odometry_topic)


def classify_bag(
    reader: AnyReader, parents: Mapping[str, str] | None = None, base_frame: str | None = None
) -> tuple[dict[str, TopicSample], dict[str, Classification]]:
    """Samples of all sensor topics of a bag, and what they are taken for (see classify_topics)."""
    parents = _parents(reader) if parents is None else parents
    base_frame = _vehicle_frames(parents)[0] if base_frame is None else normalise_name(base_frame)
    samples = sample_topics(reader)
    types = {c.topic: c.msgtype for c in reader.connections}
    seconds = reader.duration / NANOSECONDS_PER_SECOND if reader.message_count else 0.0
    fixed = [f for f in _ancestors(parents, base_frame) if f not in BASE_FRAMES]
    return samples, classify_topics(samples, types, fixed, seconds)


def _sensor(
    sample: TopicSample, modality: Modality, types: Mapping[str, str], taken: Mapping[str, Sensor]
) -> Sensor:
    is_image = modality in (Modality.CAMERA, Modality.THERMAL)
    settings: dict[str, Any] = {}
    if sample.count >= MIN_MESSAGES_FOR_RATE and 0.01 <= sample.rate_hz <= 1000.0:
        settings["rate_hz"] = float(f"{sample.rate_hz:.3g}")
        half_period_s = min(0.5 / sample.rate_hz, MAX_TOLERANCE_S)
        settings["tolerance_s"] = max(MIN_TOLERANCE_S, round(half_period_s, 3))
    return Sensor(
        sensor_name(sample.topic, taken),
        modality,
        sample.topic,
        "",
        message=sample.type,
        camera_info_topic=info_topic(sample.topic, types) if is_image else None,
        **settings,
    )


def _odometry_topic(
    types: Mapping[str, str],
    parents: Mapping[str, str],
    base_frame: str,
    odom_frame: str,
    notices: Notices,
) -> str | None:
    topics = sorted(t for t, name in types.items() if name == ODOMETRY_TYPE)
    if odom_frame in _ancestors(parents, base_frame) or not topics:
        return None
    preferred = [t for t in topics if t.rsplit("/", 1)[-1] in ("odom", "odometry")]
    for candidates in (topics, preferred):
        if len(candidates) == 1:
            notices.add(candidates[0], "taken as the odometry; /tf has none")
            return candidates[0]
    notices.add(SUBJECT, f"no odometry: {', '.join(topics)} are not unambiguous; give a rig file")
    return None


def _parents(reader: AnyReader) -> dict[str, str]:
    """Parent by frame, from the first messages of /tf_static and /tf."""
    parents: dict[str, str] = {}
    for topic in (MOVING_TOPIC, STATIC_TOPIC):
        for message in _messages(reader, topic):
            for transform in message.transforms:
                child = normalise_name(transform.child_frame_id)
                parents[child] = normalise_name(transform.header.frame_id)
    return parents


def _messages(reader: AnyReader, topic: str) -> Iterator[Any]:
    connections = [c for c in reader.connections if c.topic == topic]
    if not connections:
        return
    with suppress(Exception):  # damaged files are reported when the bag is indexed
        for count, (connection, _, raw) in enumerate(reader.messages(connections)):
            if count >= MAX_TF_MESSAGES:
                return
            with suppress(Exception):  # a malformed message can raise any exception in the parser
                yield reader.deserialize(raw, connection.msgtype)


def _vehicle_frames(parents: Mapping[str, str]) -> tuple[str, str]:
    """Names of base_frame and odom_frame."""
    frames = {*parents, *parents.values()}
    base = next((f for f in BASE_FRAMES if f in frames), BASE_FRAMES[0])
    above = list(_ancestors(parents, base))
    odom = next((f for f in ODOM_FRAMES if f in above), ODOM_FRAMES[0])
    return base, odom


def _ancestors(parents: Mapping[str, str], frame: str) -> Iterator[str]:
    visited = {frame}
    while (frame := parents.get(frame, "")) and frame not in visited:
        visited.add(frame)
        yield frame


def sensor_name(topic: str, taken: Mapping[str, Sensor]) -> str:
    """A sensor name from a topic, unique among the sensors that already have a name."""
    words = [w for w in topic.strip("/").split("/") if w]
    endings = ("points", "image", "image_raw", "compressed", "range", "image_rect", "image_color")
    while len(words) > 1 and words[-1] in endings:
        words.pop()
    name = "".join(c if c.isalnum() else "_" for c in "_".join(words)) or "sensor"
    if not name.isidentifier():
        name = f"sensor_{name}"
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
