"""Image fusion metrics with known results, classical fusion, and the command on image pairs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.evaluation.classical_fusion import laplacian_pyramid, maximum, mean
from multimodal_perception.evaluation.image_fusion import (
    edge_preservation,
    entropy,
    fusion_metrics,
    mutual_information,
    spatial_frequency,
    structural_similarity,
    visual_information_fidelity,
)


def noise(seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 80)).astype(np.uint8)
    return cv2.GaussianBlur(pixels, (5, 5), 1.5)


def test_metrics_with_closed_form_results() -> None:
    halves = np.repeat(np.array([[0, 255]], np.uint8), 32, axis=1).repeat(64, axis=0)
    assert entropy(halves) == pytest.approx(1.0)
    assert mutual_information(halves, halves) == pytest.approx(1.0)
    assert mutual_information(halves, np.zeros_like(halves)) == pytest.approx(0.0)
    stripes = np.tile(np.array([0, 10], np.uint8), (8, 4))
    assert spatial_frequency(stripes) == pytest.approx(10.0)
    image = noise(0)
    assert structural_similarity(image, image) == pytest.approx(1.0)
    assert visual_information_fidelity(image, image) == pytest.approx(1.0, abs=1e-6)
    assert visual_information_fidelity(np.full_like(image, 9), image) == 0.0
    # The sigmoids of Xydeas and Petrovic at perfect preservation.
    best = 0.9994 / (1 + np.exp(-7.5)) * 0.9879 / (1 + np.exp(-4.4))
    assert edge_preservation(image, image, image) == pytest.approx(best, rel=1e-6)


def test_blurred_image_has_lower_metrics() -> None:
    image, other = noise(0), noise(1)
    blurred = cv2.GaussianBlur(image, (9, 9), 3.0)
    sharp_metrics, blurred_metrics = (fusion_metrics(image, other, f) for f in (image, blurred))
    for metric in ("spatial_frequency", "qabf", "ssim", "vif"):
        assert sharp_metrics[metric] > blurred_metrics[metric]
    with pytest.raises(ValueError, match="equal shape"):
        fusion_metrics(image, other[:10], image)


def test_edge_directions_are_compared_modulo_pi() -> None:
    y, x = np.mgrid[0:40, 0:60].astype(np.float64)
    ramps = [(2.0 * y + lean * x).astype(np.float64) for lean in (-0.1, 0.1)]
    same = edge_preservation(ramps[0], ramps[0], ramps[0])
    assert edge_preservation(ramps[0], ramps[0], ramps[1]) > 0.9 * same
    assert edge_preservation(ramps[0], ramps[0], np.ascontiguousarray(2.0 * x)) < 0.1 * same


def test_classical_fusion_of_equal_images_is_the_image() -> None:
    image = noise(2).astype(np.float32) / 255
    for method in (mean, maximum, laplacian_pyramid):
        np.testing.assert_allclose(method(image, image), image, atol=1e-5)
    dark = np.zeros_like(image)
    np.testing.assert_array_equal(maximum(image, dark), image)
    np.testing.assert_allclose(mean(image, dark), image / 2)
    small = laplacian_pyramid(image[:3, :3], dark[:3, :3])
    assert small.shape == (3, 3) and np.isfinite(small).all()


def test_command_on_pairs_of_different_sizes_and_bit_depths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("visible", "infrared"):
        (tmp_path / name).mkdir()
    colour = np.stack([noise(k) for k in range(3)], -1).repeat(2, axis=0).repeat(2, axis=1)
    cv2.imwrite(str(tmp_path / "visible" / "a.png"), colour)
    cv2.imwrite(str(tmp_path / "infrared" / "a.png"), noise(5).astype(np.uint16) * 40)
    out = tmp_path / "f.json"
    assert main(["evaluate", "image-fusion", "--root", str(tmp_path), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    classical = {"mean", "maximum", "laplacian_pyramid"}
    assert result["pairs"] == 1 and set(result["mean"]) == {*classical, "model"}
    without_model = ["evaluate", "image-fusion", "--root", str(tmp_path), "--model", "none"]
    assert main([*without_model, "--json", str(out)]) == 0
    assert set(json.loads(out.read_text())["mean"]) == classical
    assert main([*without_model, "--attack", "4"]) == 2
    assert "--attack and --sheet need a --model" in capsys.readouterr().err
    (tmp_path / "infrared" / "a.png").write_bytes(b"broken")
    assert main(["evaluate", "image-fusion", "--root", str(tmp_path)]) == 2
    assert "not a readable image" in capsys.readouterr().err
    assert main(["evaluate", "image-fusion", "--root", str(tmp_path / "visible")]) == 2


def test_attack_lowers_the_metrics_of_every_method_and_the_sheet_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("visible", "infrared")):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), noise(seed))
    out, sheet = tmp_path / "f.json", tmp_path / "sheet.png"
    command = ["evaluate", "image-fusion", "--root", str(tmp_path), "--json", str(out)]
    assert main([*command, "--sheet", str(sheet)]) == 0
    clean = json.loads(out.read_text())["mean"]
    assert cv2.imread(str(sheet)).shape == (24 + 240, 5 * 400, 3)
    assert main([*command, "--attack", "16"]) == 0
    under_attack = json.loads(out.read_text())["mean"]
    for name in clean:
        assert under_attack[name]["ssim"] < clean[name]["ssim"]
        assert under_attack[name]["qabf"] < clean[name]["qabf"]
    assert main([*command, "--attack", "-1"]) == 2
    assert main([*command, "--sheet", str(tmp_path / "none" / "s.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err
