"""What the names of image topics state about the images."""

from __future__ import annotations

import re

# Last segments of image topics that are added by image_transport.
TRANSPORTS = ("compressed", "compresseddepth", "theora", "ffmpeg", "zstd", "avif")
# Words in the topics of rectified images: image_rect, image_rect_color, rect/image, image_undistorted.
RECTIFIED_WORDS = ("rect", "rectified", "undist", "undistorted")
# Words in the topics of images that are not rectified.
RAW_WORDS = ("raw", "distorted", "unrectified", "unrect", "norect")
NEGATIONS = ("not", "no", "non", "un")
# Words in the topics and frames of depth images.
DEPTH_WORDS = ("depth", "disparity", "depthmap")


def rectified_by_topic(*topics: str) -> bool | None:
    """Return whether images are rectified by the first topic that states it, or None.

    topics: topic of the images, then that of their CameraInfo. The last three segments are examined
    from the end, without those of image_transport.
    """
    for topic in topics:
        for segment in reversed(_segments(topic)[-3:]):
            words = re.split(r"[_\-.]+", segment)
            if any(w in RECTIFIED_WORDS for w in words):
                return not any(w in NEGATIONS for w in words)
            if any(w in RAW_WORDS for w in words):
                return False
    return None


def is_depth_topic(*names: str) -> bool:
    """Return whether a topic or frame_id is named like that of a depth image.

    The transport compressedDepth does not count: image_transport offers it for every image.
    """
    return any(
        word in DEPTH_WORDS
        for name in names
        for segment in _segments(name)
        for word in re.split(r"[_\-.]+", segment)
    )


def _segments(topic: str) -> list[str]:
    segments = [s for s in topic.lower().split("/") if s]
    while len(segments) > 1 and segments[-1] in TRANSPORTS:
        segments.pop()
    return segments
