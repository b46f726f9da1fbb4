"""Notices for the user about assumptions on the data of sensors; each notice is given once."""

from __future__ import annotations

# Number of notices kept for one sensor or topic. Notices contain values of messages, so a publisher with
# changing values must not fill the memory and the log.
MAX_NOTICES_PER_SUBJECT = 20


class Notices:
    """Collects notices such as "camera: P[:, :3] of the CameraInfo is used, because ...".

    A notice states what was assumed about the data of a sensor, or why data is not used.
    """

    def __init__(self) -> None:
        self._by_subject: dict[str, dict[str, None]] = {}
        self._new: list[str] = []

    def add(self, subject: str, text: str) -> None:
        """Add a notice about a sensor or topic, unless the same notice was added before."""
        texts = self._by_subject.setdefault(subject, {})
        if text in texts or len(texts) >= MAX_NOTICES_PER_SUBJECT:
            return
        texts[text] = None
        self._new.append(f"{subject}: {text}")

    def pop(self) -> list[str]:
        """Return the notices that were added since the last call."""
        new, self._new = self._new, []
        return new

    def texts(self, subject: str) -> tuple[str, ...]:
        """Return all notices about one sensor or topic, without its name."""
        return tuple(self._by_subject.get(subject, ()))

    def all(self) -> list[str]:
        """Return all notices as "subject: text"."""
        return [
            f"{subject}: {text}" for subject, texts in self._by_subject.items() for text in texts
        ]
