"""Why a message was refused."""

from __future__ import annotations


class MessageError(ValueError):
    """A message that cannot be used. `reason` is a short word that drops are counted by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
