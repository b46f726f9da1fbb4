"""Runs perception_node in a separate process, as on a vehicle.

Measured latencies then include DDS between processes, and the publisher does not share Python's
interpreter lock with inference.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from multimodal_perception.processes import terminate_with_parent
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, dump_rig

# Time that the node has to end after Ctrl-C; it needs 3 s on a computer without other load. Then it is
# killed.
END_S = 30.0


def prepare_environment() -> None:
    """Set the package's Fast DDS profile for large messages, unless the user set a profile or RMW."""
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") == "rmw_fastrtps_cpp":
        profile = str(share_path("config", "dds", "fastdds_shm.xml"))
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", profile)


@contextmanager
def perception_process(
    rig: Rig, parameters: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run perception_node in a separate process until the end of the `with` block.

    parameters: a ROS parameter file. settings: parameters by name, which override the file. The process
    also ends if this process is killed.
    """
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rig.yaml"
        path.write_text(dump_rig(rig))
        command = [sys.executable, "-m", "multimodal_perception.ros.start_node", "--ros-args"]
        if parameters is not None:
            command += ["--params-file", str(parameters)]
        overrides = {**(settings or {}), "rig": str(path), "autostart": "true"}
        command += [part for item in overrides.items() for part in ("-p", "{}:={}".format(*item))]
        # A session of its own: Ctrl-C reaches only this process, which then ends the node.
        process = subprocess.Popen(
            command, start_new_session=True, preexec_fn=partial(terminate_with_parent, os.getpid())
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
