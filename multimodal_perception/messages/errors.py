"""Error raised for a message that is dropped."""

from __future__ import annotations


class MessageError(ValueError):
    """A message is invalid and is dropped. `reason` is a short keyword for the drop counters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
