"""Entry point of perception_node that can be interrupted while the modules are imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Import and run perception_node.

    The import takes seconds. Until the node handles signals itself, they end the process: libraries
    discard the exception that Python raises by default.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from multimodal_perception.ros import node

    return node.main(sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
