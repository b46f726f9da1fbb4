"""Which topics of a bag are which sensors, for bags that are read without a rig file.

A topic is classified by its type, name, rate, and by encoding, fields and coordinate frame of its first
messages. The result states what every topic is taken for, and why others are not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from multimodal_perception.frame import Modality
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import normalise_name
from multimodal_perception.image_topics import TRANSPORTS, is_depth_topic
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.encodings import ENCODINGS, PLANAR_TO_RGB
from multimodal_perception.messages.frame_messages import TRUTH
from multimodal_perception.rig import MESSAGE_TYPES
from multimodal_perception.synchronization.sensor_frames import FIXED_FRAMES, VEHICLE_FRAMES

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

INFO_TYPE = "sensor_msgs/msg/CameraInfo"
CLOUD_TYPE = MESSAGE_TYPES[Modality.LIDAR][0]
IMAGE_TYPES = MESSAGE_TYPES[Modality.CAMERA]
RANGE_TYPE = MESSAGE_TYPES[Modality.ULTRASONIC][0]
SAMPLES = 3  # messages of each topic that are examined
STAMPS = 21  # messages of each topic from which its rate is estimated

# Words (between / and _) in the names of topics.
MAP_WORDS = ("map", "maps", "submap", "submaps", "globalmap", "localmap", "octomap", "costmap")
DERIVED_WORDS = (
    *("ground", "nonground", "obstacle", "obstacles", "cluster", "clusters", "segmented"),
    *("filtered", "cropped", "downsampled", "voxel", "voxels", "colored", "coloured", "debug"),
    *("registered", "aligned", "fused", "concatenated", "merged", "deskewed", "undistorted"),
)
RADAR_WORDS = ("radar", "radars")
THERMAL_WORDS = ("thermal", "infrared", "lwir", "flir", "boson", "lepton", "thermography")
# Names of companies and of near-infrared cameras: thermal only if the encoding is not that of colours.
WEAK_THERMAL_WORDS = ("flir", "infrared")
LABEL_WORDS = (
    "mask",
    "masks",
    "label",
    "labels",
    "semantic",
    "segmentation",
    "instance",
    "panoptic",
)
DRAWN_WORDS = (
    *("debug", "overlay", "annotated", "visualization", "visualisation", "viz", "heatmap"),
    *("detection", "detections", "tracked", "result", "results", "output"),
)
# Last segments of image topics that are versions of the same image, best first.
IMAGE_NAMES = (
    *("image_raw", "image", "image_color", "image_colour", "image_mono", "image_rect_color"),
    *("image_rect", "image_rect_raw", "image_undistorted"),
)
# Fields of point clouds that only radars have, and fields that LiDAR drivers publish.
RADAR_FIELDS = ("rcs", "doppler", "v_r", "radial_speed", "vrel_rad", "snr")
DRIVER_FIELDS = ("ring", "line", "channel", "t", "time", "timestamp", "time_stamp", "offset_time")
COLOUR_FIELDS = ("rgb", "rgba", "r")
DEPTH_ENCODINGS = ("16UC1", "16SC1", "32FC1", "64FC1")
COLOUR_ENCODINGS = tuple(
    e for e in ENCODINGS if e.startswith(("rgb", "bgr", "bayer", "yuv", "uyvy", "yuy"))
)
# Topics published less often than this, over more than MIN_DURATION_S, are no sweeps.
MIN_CLOUD_RATE_HZ, MIN_DURATION_S = 0.2, 2.0

# Types of sensor data that cannot be read, and what converts them.
UNSUPPORTED_TYPES = {
    "sensor_msgs/msg/LaserScan": "a planar scanner; laser_geometry converts it to PointCloud2",
    "sensor_msgs/msg/MultiEchoLaserScan": "a planar scanner; laser_geometry converts it",
    "sensor_msgs/msg/PointCloud": "point_cloud_converter converts it to PointCloud2",
    "velodyne_msgs/msg/VelodyneScan": "packets; velodyne_pointcloud converts them to PointCloud2",
    "ouster_sensor_msgs/msg/PacketMsg": "packets; ouster_ros converts them to PointCloud2",
    "ouster_msgs/msg/PacketMsg": "packets; ouster_ros converts them to PointCloud2",
    "hesai_ros_driver/msg/UdpFrame": "packets; hesai_ros_driver converts them to PointCloud2",
    "rslidar_msg/msg/RslidarPacket": "packets; rslidar_sdk converts them to PointCloud2",
    "livox_ros_driver2/msg/CustomMsg": "set xfer_format of livox_ros_driver2 to PointCloud2",
    "livox_ros_driver/msg/CustomMsg": "set xfer_format of livox_ros_driver to PointCloud2",
    "livox_interfaces/msg/CustomMsg": "set xfer_format of livox_ros2_driver to PointCloud2",
    "theora_image_transport/msg/Packet": "video; image_transport republish converts it to raw",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "video; image_transport republish converts it",
    "foxglove_msgs/msg/CompressedVideo": "video; convert it to sensor_msgs/Image",
    "radar_msgs/msg/RadarScan": "radars are not supported",
}

ACCEPTED = (
    Accepted(
        "PointCloud2 topics of a bag without a rig file",
        ("x, y, z fields", "at least 0.2 Hz", "in a frame that moves with the vehicle"),
        "LiDARs. Of clouds of the same frame with the same stamps, the one with ring and time is used.",
        "Not used, with a statement: maps (frames "
        + ", ".join(FIXED_FRAMES)
        + " and other frames above "
        "base_link in /tf; names with "
        + ", ".join(MAP_WORDS)
        + "; one latched message), clouds of depth "
        "cameras and radars.",
    ),
    Accepted(
        "Image topics of a bag without a rig file",
        ("colour, Bayer, mono8 and mono16 with a camera_info topic beside the image",),
        "Cameras, or thermal cameras if the topic or frame_id has one of "
        + ", ".join(THERMAL_WORDS)
        + ".",
        "Not used, with a statement: "
        + ", ".join(DEPTH_ENCODINGS)
        + " (depth, REP 118), topics named like "
        "depth images, masks and drawn results; images without camera_info.",
    ),
    Accepted(
        "Range topics of a bag without a rig file",
        ("ULTRASOUND", "INFRARED"),
        "Ultrasonic sensors; INFRARED with a statement.",
        "-",
    ),
)


@dataclass(frozen=True)
class TopicSample:
    """The first messages of a topic.

    count: number of all messages. latched: offered as transient local. rate_hz: median of the first
    messages, 0 if unknown.
    """

    topic: str
    type: str
    count: int
    latched: bool
    rate_hz: float
    messages: tuple[Any, ...]

    @property
    def frame_id(self) -> str:
        """frame_id of the first message, or an empty string."""
        return normalise_name(self.messages[0].header.frame_id) if self.messages else ""

    @property
    def words(self) -> set[str]:
        """Words of the topic and of the frame_id, in lower case."""
        return set(re.split(r"[/_\-.]+", f"{self.topic}/{self.frame_id}".lower())) - {""}


@dataclass(frozen=True)
class Classification:
    """What a topic is taken for: a sensor of a modality, or nothing (None). reason: in words.

    is_uncalibrated: whether it is not used only because its calibration is missing.
    """

    modality: Modality | None
    reason: str
    is_uncalibrated: bool = False


def sample_topics(reader: AnyReader) -> dict[str, TopicSample]:
    """Read the first messages of all topics of sensor types."""
    samples: dict[str, TopicSample] = {}
    for connection in reader.connections:
        if connection.msgtype not in (CLOUD_TYPE, *IMAGE_TYPES, RANGE_TYPE):
            continue
        same = [c for c in reader.connections if c.topic == connection.topic]
        count = sum(c.msgcount for c in same)
        profiles = getattr(connection.ext, "offered_qos_profiles", ())
        latched = any(p.durability.name == "TRANSIENT_LOCAL" for p in profiles)
        messages, rate_hz = _first_messages(reader, connection)
        samples[connection.topic] = TopicSample(
            connection.topic, connection.msgtype, count, latched, rate_hz, messages
        )
    return samples


def classify_topics(
    samples: Mapping[str, TopicSample],
    types: Mapping[str, str],
    fixed_frames: Sequence[str] = (),
    duration_s: float = 0.0,
) -> dict[str, Classification]:
    """What each topic of a sensor type is taken for.

    types: type by topic, of all topics. fixed_frames: frames above the vehicle's frame in /tf.
    """
    result: dict[str, Classification] = {}
    for topic, sample in sorted(samples.items()):
        if sample.topic.startswith(f"{TRUTH}/"):
            continue
        if not sample.count:
            result[topic] = Classification(None, "no messages")
        elif sample.type == CLOUD_TYPE:
            result[topic] = _classify_cloud(sample, fixed_frames, duration_s)
        elif sample.type == RANGE_TYPE:
            result[topic] = _classify_range(sample)
        else:
            result[topic] = _classify_image(sample, types)
    _remove_derived_clouds(samples, result)
    _remove_image_versions(samples, types, result)
    for topic, name in sorted(types.items()):
        if name in UNSUPPORTED_TYPES:
            result[topic] = Classification(None, f"{name}: {UNSUPPORTED_TYPES[name]}")
    return result


def info_topic(topic: str, types: Mapping[str, str]) -> str | None:
    """The camera_info topic next to the image, or one level up for image transports."""
    folder = topic
    for _ in range(2):
        folder = folder.rsplit("/", 1)[0]
        if types.get(f"{folder}/camera_info") == INFO_TYPE:
            return f"{folder}/camera_info"
    return None


def _first_messages(reader: AnyReader, connection: Any) -> tuple[tuple[Any, ...], float]:
    """The first messages of a topic, and its rate by the intervals of the first record times, Hz."""
    messages: list[Any] = []
    times: list[int] = []
    with suppress(Exception):  # damaged files are reported when the bag is indexed
        for _, record_ns, raw in reader.messages([connection]):
            times.append(record_ns)
            if len(messages) < SAMPLES:
                with suppress(Exception):  # malformed messages raise any exception
                    messages.append(reader.deserialize(raw, connection.msgtype))
            if len(times) >= STAMPS:
                break
    interval_ns = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return tuple(messages), NANOSECONDS_PER_SECOND / interval_ns if interval_ns > 0 else 0.0


def _classify_cloud(
    sample: TopicSample, fixed_frames: Sequence[str], duration_s: float
) -> Classification:
    frame, words = sample.frame_id, sample.words
    leaf = frame.rsplit("/", 1)[-1]
    fields = {f.name.lower() for m in sample.messages[:1] for f in m.fields}
    reason = ""
    if leaf in FIXED_FRAMES or frame in fixed_frames:
        reason = f"a map or accumulated cloud: its frame {frame} does not move with the vehicle"
    elif words & set(MAP_WORDS):
        reason = "named like a map"
    elif duration_s > MIN_DURATION_S and sample.count == 1:
        reason = "a single message, as of a map"
    elif sample.count > 1 and duration_s > MIN_DURATION_S and sample.rate_hz < MIN_CLOUD_RATE_HZ:
        reason = f"{sample.rate_hz:.2g} Hz is too slow for a LiDAR"
    elif sample.latched and sample.rate_hz < 1.0 and sample.count > 1:
        reason = f"latched at {sample.rate_hz:.2g} Hz, as a map"
    elif sample.messages and not {"x", "y", "z"} <= fields:
        reason = "the points have no x, y, z"
    elif words & set(RADAR_WORDS) or fields & set(RADAR_FIELDS):
        reason = "a radar, which is not supported"
    elif is_depth_topic(sample.topic, frame):
        reason = "points of a depth camera"
    elif _is_organised_colour(sample, fields):
        reason = "points of a depth camera: they are organised like an image and have colours"
    elif sample.messages and all(int(m.width) * int(m.height) == 0 for m in sample.messages):
        reason = "no points in its first messages"
    if reason:
        return Classification(None, reason)
    return Classification(Modality.LIDAR, f"points in {frame or 'no frame_id'}")


def _is_organised_colour(sample: TopicSample, fields: set[str]) -> bool:
    organised = any(int(m.height) > 1 for m in sample.messages)
    return organised and bool(fields & set(COLOUR_FIELDS)) and not fields & {"ring", "intensity"}


def _classify_range(sample: TopicSample) -> Classification:
    infrared = any(int(m.radiation_type) != 0 for m in sample.messages)
    text = "Range of an INFRARED sensor, used like an ultrasonic sensor" if infrared else "Range"
    return Classification(Modality.ULTRASONIC, f"{text} in {sample.frame_id or 'no frame_id'}")


def _classify_image(sample: TopicSample, types: Mapping[str, str]) -> Classification:
    words, encoding = sample.words, _encoding(sample)
    if "compresseddepth" in sample.topic.lower():
        return Classification(None, "compressedDepth has distances or temperatures")
    if is_depth_topic(sample.topic, sample.frame_id):
        return Classification(None, f"a depth image ({encoding or 'unknown encoding'})")
    if words & set(LABEL_WORDS):
        return Classification(None, "named like a mask")
    if words & set(DRAWN_WORDS):
        return Classification(None, "named like a picture of results")
    thermal = words & set(THERMAL_WORDS)
    if thermal <= set(WEAK_THERMAL_WORDS) and encoding in COLOUR_ENCODINGS:
        thermal = set()
    if encoding in DEPTH_ENCODINGS and not thermal:
        return Classification(
            None, f"{encoding} is a depth image (REP 118), unless the topic is named thermal"
        )
    if encoding and encoding not in ENCODINGS and encoding not in PLANAR_TO_RGB:
        return Classification(None, f"encoding {encoding} is not that of a camera")
    info = info_topic(sample.topic, types)
    if info is None:
        return Classification(None, "no camera_info topic beside it", is_uncalibrated=True)
    text = f"{encoding or 'unknown encoding'}, calibration on {info}"
    if thermal:
        return Classification(
            Modality.THERMAL, f"{text}; thermal by its name ({', '.join(sorted(thermal))})"
        )
    return Classification(Modality.CAMERA, text)


def _encoding(sample: TopicSample) -> str:
    """Encoding of an Image, or that of the original image of a CompressedImage if it is stated."""
    for message in sample.messages:
        if hasattr(message, "format"):
            first = str(message.format).split(";")[0].strip()
            return first if first in ENCODINGS else ""
        return str(message.encoding)
    return ""


def _remove_derived_clouds(
    samples: Mapping[str, TopicSample], result: dict[str, Classification]
) -> None:
    """Keep one of several clouds that were computed from the same sweeps."""
    clouds = [t for t, c in result.items() if c.modality is Modality.LIDAR]
    ranked = sorted(clouds, key=lambda t: _cloud_rank(samples[t]))
    kept: list[str] = []
    for topic in ranked:
        sample = samples[topic]
        original = next((k for k in kept if _is_derived(sample, samples[k])), None)
        if original is None:
            kept.append(topic)
            continue
        reason = f"computed from the sweeps of {original} (same frame and stamps)"
        if samples[original].frame_id != sample.frame_id:
            reason = f"named like a result that is computed from other clouds ({original}, ...)"
        result[topic] = Classification(None, reason)


def _cloud_rank(sample: TopicSample) -> tuple[Any, ...]:
    fields = {f.name.lower() for m in sample.messages[:1] for f in m.fields}
    points = max((int(m.width) * int(m.height) for m in sample.messages), default=0)
    derived = bool(sample.words & set(DERIVED_WORDS))
    return derived, -len(fields & set(DRIVER_FIELDS)), -points, len(sample.topic), sample.topic


def _is_derived(sample: TopicSample, original: TopicSample) -> bool:
    if sample.words & set(DERIVED_WORDS) and not original.words & set(DERIVED_WORDS):
        in_vehicle = sample.frame_id.rsplit("/", 1)[-1] in VEHICLE_FRAMES
        return in_vehicle or sample.frame_id == original.frame_id
    if sample.frame_id != original.frame_id:
        return False
    # LiDARs whose clouds were already transformed to the vehicle have the same frame.
    if sample.frame_id.rsplit("/", 1)[-1] in VEHICLE_FRAMES:
        return False
    return bool(_stamps(sample) & _stamps(original))


def _stamps(sample: TopicSample) -> set[tuple[int, int]]:
    return {(m.header.stamp.sec, m.header.stamp.nanosec) for m in sample.messages}


def _remove_image_versions(
    samples: Mapping[str, TopicSample], types: Mapping[str, str], result: dict[str, Classification]
) -> None:
    """Keep one of several versions (raw, rectified, compressed) of the same image."""
    kept: dict[tuple[Any, ...], str] = {}
    images = [t for t, c in result.items() if c.modality in (Modality.CAMERA, Modality.THERMAL)]

    def rank(topic: str) -> tuple[Any, ...]:
        name = _image_name(topic)[1]
        order = IMAGE_NAMES.index(name) if name in IMAGE_NAMES else len(IMAGE_NAMES)
        return samples[topic].type != IMAGE_TYPES[0], order, topic

    for topic in sorted(images, key=rank):
        folder, name = _image_name(topic)
        # Topics with other names than those of image_proc may be different cameras.
        version = name if name not in IMAGE_NAMES else ""
        key = folder, version, samples[topic].frame_id, result[topic].modality
        if key in kept:
            result[topic] = Classification(None, f"another version of the images of {kept[key]}")
        else:
            kept[key] = topic


def _image_name(topic: str) -> tuple[str, str]:
    """Folder and name of an image topic, without the segment of image_transport."""
    segments = topic.split("/")
    while len(segments) > 2 and segments[-1].lower() in TRANSPORTS:
        segments.pop()
    return "/".join(segments[:-1]), segments[-1]
