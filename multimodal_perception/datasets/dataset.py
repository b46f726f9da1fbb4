"""The protocol that every reader of recorded data follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.rig import Rig


class DatasetError(UserError):
    """Recorded data cannot be read. The message names the file and the reason."""


class Dataset(Protocol):
    """A sequence of frames. Each frame is read on access, so a long recording needs little memory.

    The readers inherit from this protocol to reuse __iter__. Any class with these members is valid.
    """

    name: str
    rig: Rig

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> SensorFrame: ...

    def __iter__(self) -> Iterator[SensorFrame]:
        return (self[i] for i in range(len(self)))
