"""What the decoders assumed about the messages of each sensor, and which parts they left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from multimodal_perception.notices import Notices


@dataclass
class DecodingLog:
    """Notices and counts of messages that were decoded; dropped messages raise MessageError instead.

    notices: assumptions, for the user. losses: number of messages by (sensor, reason) of which a part
    could not be used, such as the point times; they count like drops. information: number of values by
    (sensor, reason) that contain no measurement, such as LiDAR pulses without a return; this is normal.
    """

    notices: Notices = field(default_factory=Notices)
    losses: Counter[tuple[str, str]] = field(default_factory=Counter)
    information: Counter[tuple[str, str]] = field(default_factory=Counter)
