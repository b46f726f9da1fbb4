"""The protocol that every reader of recorded data follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.rig import Rig


class DatasetError(UserError):
    """Recorded data that cannot be read; the message names the file and what is wrong."""


class Dataset(Protocol):
    """A sequence of frames. Frames are read when asked for, so a long recording costs no memory.

    Readers are subclasses for the sake of __iter__; whatever else has these members will do.
    """

    name: str
    rig: Rig

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> SensorFrame: ...

    def __iter__(self) -> Iterator[SensorFrame]:
        return (self[i] for i in range(len(self)))
