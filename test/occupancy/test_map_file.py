"""Map files, read back by the rules of Nav2's map_server (loadMapFromFile in map_io.cpp)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from multimodal_perception.files import UserError
from multimodal_perception.occupancy.map_file import MapFormat, resolve_map_path, write_map

CELLS = np.array([[-1, 0, 10, 25], [26, 50, 64, 65], [80, 99, 100, -1]], np.int8)


def load_map(yaml_path: Path) -> NDArray[np.int64]:
    """The cells of a map file by map_server's rules, first row at the smallest y."""
    info = yaml.safe_load(yaml_path.read_text())
    image = cv2.imread(str(yaml_path.parent / info["image"]), cv2.IMREAD_UNCHANGED)
    alpha = image[..., 3] if image.ndim == 3 else np.full(image.shape, 255)
    grey = image[..., 0] if image.ndim == 3 else image
    if info["mode"] == "raw":
        result = np.where(grey <= 100, grey.astype(int), -1)
    else:
        shade = (1.0 - grey.astype(np.float32) / 255.0) if not info["negate"] else grey / 255.0
        low, high = info["free_thresh"], info["occupied_thresh"]
        result = np.full(grey.shape, -1)
        if info["mode"] == "scale":
            result = np.rint(100 * (shade - low) / (high - low)).astype(int)
        result[shade >= high], result[shade <= low] = 100, 0
        result[alpha < 255] = -1
    return np.flipud(result)


@pytest.mark.parametrize("image_format", ["pgm", "png", "bmp"])
def test_a_trinary_map_has_free_occupied_and_unknown_cells_by_the_thresholds(
    tmp_path: Path, image_format: str
) -> None:
    path, image = write_map(
        tmp_path / "new" / "floor", CELLS, 0.4, (-12.4, 3.2), MapFormat(image_format)
    )
    assert path.name == "floor.yaml" and image.name == f"floor.{image_format}"
    expected = np.where(CELLS >= 65, 100, np.where((CELLS >= 0) & (CELLS <= 25), 0, -1))
    assert (load_map(path) == expected).all()
    info = yaml.safe_load(path.read_text())
    odd, _ = write_map(tmp_path / "a: b #1", CELLS, 0.4, (0.0, 0.0))
    assert yaml.safe_load(odd.read_text())["image"] == "a: b #1.pgm"
    assert info["resolution"] == 0.4 and info["origin"] == [-12.4, 3.2, 0]


def test_scale_and_raw_maps_keep_every_value(tmp_path: Path) -> None:
    path, _ = write_map(tmp_path / "raw", CELLS, 0.4, (0.0, 0.0), MapFormat(mode="raw"))
    assert (load_map(path) == CELLS).all()
    exact = MapFormat("png", "scale", 0.0, 1.0)
    path, _ = write_map(tmp_path / "scale", CELLS, 0.4, (0.0, 0.0), exact)
    assert np.abs(load_map(path) - CELLS).max() <= 1 and (load_map(path)[CELLS < 0] == -1).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("jpeg",), "allowed: pgm, png, bmp"),
        (("pgm", "grey"), "allowed: trinary, scale, raw"),
        (("pgm", "scale"), "png"),
        (("pgm", "trinary", 0.7, 0.6), "thresholds"),
        (("pgm", "trinary", 0.2, float("nan")), "thresholds"),
    ],
)
def test_formats_that_map_server_does_not_read_are_refused(
    arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MapFormat(*arguments)  # type: ignore[arg-type]


def test_only_files_in_the_folder_of_maps_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert resolve_map_path("floor_1", folder) == folder / "floor_1"
    assert resolve_map_path(f"file://{folder}/a/b.yaml", folder) == folder / "a" / "b"
    outside = ("", ".", "..", "../x", "/etc/passwd", "a/../../x", "link/x", f"{tmp_path}/x", "a/.b")
    for name in outside:
        with pytest.raises(UserError):
            resolve_map_path(name, folder)
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(UserError, match="loop"):
        resolve_map_path("loop/x", folder)
    with pytest.raises(UserError, match="null character"):
        resolve_map_path("a\0b", folder)


def test_a_folder_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_map(tmp_path / "file" / "map", CELLS, 0.4, (0.0, 0.0))
