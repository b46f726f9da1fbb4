"""Files of unknown origin are read within limits; files are written completely or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_perception.files import (
    FileError,
    UserError,
    atomic_write,
    check_name,
    check_regular_file,
    read_regular_file,
    user_path,
)


def test_regular_files_are_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_regular_file(path, 5) == b"12345"
    assert check_regular_file(path, 5) == 5
    for function in (read_regular_file, check_regular_file):
        with pytest.raises(FileError, match="x: larger than 4 bytes"):
            function(path, 4)
        with pytest.raises(FileError, match="No such file"):
            function(tmp_path / "y", 5)
        with pytest.raises(FileError, match="directory"):
            function(tmp_path, 5)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_devices_are_refused(device: str) -> None:
    if not os.path.exists(device):
        pytest.skip(f"no {device} on this system")
    with pytest.raises(FileError):
        read_regular_file(device, 1 << 20)


def test_a_fifo_without_a_writer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="fifo: not a regular file"):
        read_regular_file(tmp_path / "fifo", 100)


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"new")
        _ = 1 / 0
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from multimodal_perception.files import FileError, atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(Path(sys.argv[1])) as file:
        file.write(bytes(5000))
except FileError as error:
    print(error)
"""


def test_a_file_that_does_not_fit_on_the_disk_is_removed(tmp_path: Path) -> None:
    """A limit of the file size stands for a full disk."""
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=120
    )
    assert "x: cannot be written: File too large" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a\0b", "~no_such_user_/x", "x" * 300, "y/" * 3000])
def test_paths_that_cannot_exist_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(FileError) as caught:
        user_path(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/x") == Path("/somewhere/x")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "a\nb", "x" * 101, "\udc80"])
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^rig\.yaml: name: expected"):
        check_name(name, "rig.yaml", "name")


def test_ordinary_names_are_accepted() -> None:
    for name in ("car", "Fahrzeug 7 (Süd)", "a-b_c.d"):
        check_name(name, "rig.yaml", "name")
