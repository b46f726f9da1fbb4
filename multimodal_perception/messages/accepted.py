"""Entry of the table "What is accepted", which the documentation is generated from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accepted:
    """One convention of the messages that a decoder accepts.

    Each decoder module has a tuple ACCEPTED of these entries, built from its own tables.

    what: message and field, for example "sensor_msgs/Image: encoding". values: accepted values.
    interpretation: how they are used. otherwise: what happens to other values, such as the reason under
    which the message is counted.
    """

    what: str
    values: tuple[str, ...]
    interpretation: str
    otherwise: str
