"""The server of the live view: a Rerun process to which browsers and native viewers connect.

The server is a separate process, because RecordingStream.serve_grpc of the Rerun SDK always listens on
all network interfaces. It buffers the newest data up to a memory limit for viewers that connect late.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multimodal_perception.configuration import UserError
from multimodal_perception.processes import terminate_with_parent
from multimodal_perception.visualization.rerun_log import APPLICATION

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
LOOPBACK = ("127.0.0.1", "::1")
# What a live view may leave out. perception_node computes masks and 2D boxes only for subscribers.
OPTIONAL_INPUTS = ("sensors", "masks", "boxes2d", "occupancy")
ANY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class ServerConfig:
    """Where the live view listens and how much it buffers.

    host: address of the interface; port: of the data (gRPC); web_port: of the web page, None for the
    native viewer. memory_mib: maximum size of the buffered data.
    """

    host: str = "127.0.0.1"
    port: int = 9876
    web_port: int | None = 9090
    memory_mib: int = 512

    @property
    def is_local(self) -> bool:
        """Whether only this computer can connect."""
        return self.host in LOOPBACK

    @property
    def data_url(self) -> str:
        """URL of the data for `rerun --connect`."""
        return f"rerun+http://{self._visible_host}:{self.port}/proxy"

    @property
    def page_url(self) -> str:
        """URL of the web page; it contains the URL of the data."""
        page = f"http://{self._visible_host}:{self.web_port}"
        return f"{page}/?url={quote(self.data_url, safe='')}"

    @property
    def _visible_host(self) -> str:
        if self.is_local:
            return "localhost"  # also valid at the other end of an SSH tunnel
        if self.host in ANY_ADDRESS:
            return socket.gethostname()
        return f"[{self.host}]" if ":" in self.host else self.host


def resolve_host(host: str) -> str:
    """The address of a host name of this computer. Raises UserError if it is not known."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: not an address of this computer: {error}") from error


@contextmanager
def viewer_process(config: ServerConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Run the web server, or the native viewer, until the end of the `with` block.

    The process also ends if this process is killed. Raises UserError if a port is in use or the
    process does not start.
    """
    ports = [config.port] if config.web_port is None else [config.port, config.web_port]
    if len(set(ports)) < len(ports):
        raise UserError(f"--port and --web-port must differ; both are {config.port}")
    for port in ports:
        _check_free(config.host, port)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            _command(config),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "RUST_LOG": "warn"},
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the server
            preexec_fn=partial(terminate_with_parent, os.getpid()),
        )
        try:
            _wait_until_ready(config, ports, process, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def connect(rerun: Any, config: ServerConfig) -> Any:
    """A rerun.RecordingStream whose data goes to the server."""
    stream = rerun.RecordingStream(APPLICATION)
    stream.connect_grpc(f"rerun+http://{_own_address(config.host)}:{config.port}/proxy")
    return stream


def _command(config: ServerConfig) -> list[str]:
    limit = f"{config.memory_mib}MiB"
    command = [viewer_program(), "--bind", config.host, "--port", str(config.port)]
    if config.web_port is None:
        return [*command, "--memory-limit", limit, "--expect-data-soon"]
    command += ["--serve-web", "--web-viewer-port", str(config.web_port)]
    command += ["--server-memory-limit", limit]
    if not config.is_local:
        # The page is loaded by the name or address of this computer, whichever the user types.
        command += ["--cors-allow-origin", f"http://*:{config.web_port}"]
    return command


def viewer_program() -> str:
    """Path of the viewer that rerun-sdk contains. `python -m rerun` would leave it running."""
    own = os.environ.get("RERUN_CLI_PATH")
    if own:
        return own
    package = importlib.util.find_spec("rerun_cli")
    if package is not None and package.origin is not None:
        path = Path(package.origin).with_name("rerun")
        if path.is_file():
            return str(path)
    found = shutil.which("rerun")
    if found is None:
        raise UserError("this installation of rerun-sdk has no viewer: pip install rerun-sdk")
    return found


def _own_address(host: str) -> str:
    if host in ANY_ADDRESS:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"[{host}]" if ":" in host else host


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host} port {port}: {error.strerror}; "
                "choose others by --host, --port and --web-port"
            ) from error


def _wait_until_ready(
    config: ServerConfig, ports: list[int], process: subprocess.Popen[bytes], log: Any
) -> None:
    address = _own_address(config.host).strip("[]")
    end = time.monotonic() + START_TIMEOUT_S
    for port in ports:
        while not _accepts(address, port):
            if process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"no answer within {START_TIMEOUT_S:.0f} s"
                raise UserError(f"the Rerun viewer did not start: {reason}")
            time.sleep(0.05)


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True
