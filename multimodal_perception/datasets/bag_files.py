"""Opening of rosbag2 recordings, with one clear answer for files that cannot be read.

Supported: a bag folder with metadata.yaml, a .mcap or .db3 file, and a folder with one such file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag_writer import typestore
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.extras import import_package
from multimodal_perception.messages.accepted import Accepted

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

METADATA = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3")
COMPRESSED_SUFFIXES = (".zstd", ".zst", ".lz4", ".gz", ".bz2", ".xz", ".zip", ".tar")
ROS1_MAGIC, MCAP_MAGIC, SQLITE_MAGIC = b"#ROSBAG V", b"\x89MCAP0\r\n", b"SQLite format 3\x00"
# Number of topics of a ROS 1 bag that an error lists.
MAX_LISTED_TOPICS = 40

ACCEPTED = (
    Accepted(
        "Recordings",
        (
            "rosbag2 folder (sqlite3 or MCAP; uncompressed or zstd)",
            ".mcap or .db3 file",
            "folder with one such file and no metadata.yaml",
        ),
        "Read with the decoders of the node.",
        "ROS 1 bags, compressed single files, other storages and damaged files: an error with the "
        "command that converts them.",
    ),
)


@contextmanager
def dataset_errors(path: Path) -> Iterator[None]:
    """Convert any exception of the parser into a DatasetError that names the bag."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        advice = _advice(path, str(error))
        raise DatasetError(f"{path}: not a readable rosbag2 ({reason}){advice}") from error


def open_reader(path: Path) -> AnyReader:
    """An open reader with the vision_msgs types. Raises DatasetError if the bag cannot be read."""
    source = storage_path(path)
    with dataset_errors(path):
        any_reader = import_package("rosbags.highlevel").AnyReader
        reader: AnyReader = any_reader([source], default_typestore=typestore())
        reader.open()
        for connection in reader.connections:  # rosbags does not check the types in metadata.yaml
            if not isinstance(connection.topic, str) or not isinstance(connection.msgtype, str):
                raise DatasetError(
                    f"{path}: metadata.yaml: the name or type of a topic is not a text"
                )
        # rosbags uses the default types only if the bag has no definitions at all.
        store, known = reader.typestore, typestore().fielddefs
        store.register({n: d for n, d in known.items() if n not in store.fielddefs})
    return reader


def storage_path(path: Path) -> Path:
    """The file or folder that rosbags must open for a path. Raises DatasetError for other files."""
    if not path.exists():
        raise DatasetError(f"{path}: no such bag")
    if path.is_dir():
        return _folder_storage(path)
    if is_ros1_bag(path):
        raise DatasetError(ros1_answer(path))
    if path.name == METADATA:
        return _folder_storage(path.parent)
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        raise DatasetError(_compressed_answer(path))
    expected = {".mcap": MCAP_MAGIC, ".db3": SQLITE_MAGIC}.get(path.suffix)
    if expected is None:
        raise DatasetError(
            f"{path}: not a readable rosbag2; expected a folder with {METADATA}, a .mcap or a .db3 file"
        )
    magic = _first_bytes(path)
    if not magic:
        raise DatasetError(f"{path}: not a readable rosbag2 (the file is empty)")
    if not magic.startswith(expected):
        actual = {".mcap": MCAP_MAGIC, ".db3": SQLITE_MAGIC}
        other = [suffix for suffix, value in actual.items() if magic.startswith(value)]
        hint = f"; its content is that of a {other[0]} file: rename it" if other else ""
        raise DatasetError(
            f"{path}: not a readable rosbag2 (not the content of a {path.suffix} file{hint})"
        )
    return path


def is_ros1_bag(path: Path) -> bool:
    """Whether a file is a ROS 1 bag, by its content or by its name."""
    if not path.is_file():
        return False
    return path.suffix in (".bag", ".active") or _first_bytes(path).startswith(ROS1_MAGIC)


def is_bag(path: Path) -> bool:
    """Whether a path is a recording, including ROS 1 and compressed ones, which cannot be read."""
    if path.is_dir():
        return any(_has_bag_name(f) for f in path.iterdir() if f.is_file())
    return _has_bag_name(path) or is_ros1_bag(path)


def ros1_answer(path: Path) -> str:
    """Error for a ROS 1 bag: its topics with their types, and the command that converts it."""
    out = path.with_name(path.name.removesuffix(".active").removesuffix(".bag") + "_ros2")
    command = f"rosbags-convert --src {path} --dst {out}"
    lines = [f"{path}: a ROS 1 bag; convert it to a rosbag2 bag, then use the result: {command}"]
    try:
        with import_package("rosbags.rosbag1").Reader(path) as reader:
            topics = sorted((name, t.msgtype, t.msgcount) for name, t in reader.topics.items())
    except Exception as error:  # a damaged bag can raise any exception in the parser
        lines.append(f"its topics cannot be read ({error}); try: rosbag reindex {path}")
        return "\n".join(lines)
    lines.append(f"its topics ({len(topics)}):")
    lines += [
        f"  {name}  {msgtype}  {count}" for name, msgtype, count in topics[:MAX_LISTED_TOPICS]
    ]
    if len(topics) > MAX_LISTED_TOPICS:
        lines.append(f"  and {len(topics) - MAX_LISTED_TOPICS} more")
    return "\n".join(lines)


def custom_data(reader: AnyReader, key: str) -> str | None:
    """A value of the custom data in a bag's metadata.yaml, or None."""
    rosbag2 = import_package("rosbags.rosbag2")
    for part in reader.readers:
        storage: Any = part.storage if isinstance(part, rosbag2.Reader) else None
        content = getattr(getattr(storage, "metadata", None), "custom", None)
        if isinstance(content, dict) and isinstance(content.get(key), str):
            return str(content[key])
    return None


def _folder_storage(folder: Path) -> Path:
    if (folder / METADATA).is_file():
        return folder
    files = _storage_files(folder)
    if len(files) == 1:
        return storage_path(files[0])
    if files:
        names = ", ".join(f.name for f in files)
        raise DatasetError(
            f"{folder}: several files ({names}) and no {METADATA}; create it with: "
            f"ros2 bag reindex {folder}"
        )
    ros1 = _ros1_files(folder)
    if ros1:
        raise DatasetError("\n".join(ros1_answer(f) for f in ros1))
    compressed = [f for f in sorted(folder.iterdir()) if f.is_file() and _has_bag_name(f)]
    if compressed:
        return storage_path(compressed[0])
    raise DatasetError(f"{folder}: no bag in this folder; expected {METADATA}, .mcap or .db3")


def _has_bag_name(path: Path) -> bool:
    name = path.name.lower()
    return name == METADATA or any(f"{s}." in f"{name}." for s in (*STORAGE_SUFFIXES, ".bag"))


def _storage_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix in STORAGE_SUFFIXES and f.is_file())


def _ros1_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix == ".bag" and f.is_file())


def _compressed_answer(path: Path) -> str:
    if path.suffix.lower() in (".zstd", ".zst"):
        if (path.parent / METADATA).is_file():
            return f"{path}: a compressed file of a bag; give the folder {path.parent} instead"
        return f"{path}: a compressed file without {METADATA}; decompress it with: zstd -d {path}"
    return f"{path}: a compressed or packed file; unpack it first"


def _first_bytes(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(16)
    return b""


def _advice(path: Path, reason: str) -> str:
    """What to do about an error of the parser, or an empty text."""
    text = reason.lower()
    if "compression format" in text:
        return f"; convert it to zstd or none: ros2 bag convert -i {path} -o options.yaml"
    if "storage plugin" in text:
        return f"; allowed: sqlite3, mcap; convert it: ros2 bag convert -i {path} -o options.yaml"
    if "serialization format" in text:
        return "; only CDR messages are supported"
    if "files are missing" in text:
        return f"; {METADATA} lists files that are not in the folder"
    if "profile is not ros2" in text:
        return "; the MCAP file was not written by ROS 2"
    if "magic" in text or "footer" in text or "truncated" in text or "malformed" in text:
        return (
            "; the file is damaged or was not closed; repair it with: mcap recover FILE.mcap "
            "-o OUT.mcap, or ros2 bag reindex FOLDER"
        )
    return ""
