"""Training of the detector from samples to a model that the pipeline runs; exact resumption."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector
from multimodal_perception.detection.fusion.network_inputs import Views
from multimodal_perception.detection.open_detector import open_detector
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    SensorFrame,
    ThermalImage,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import inside, points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.networks.fusion_detector import ProposalNetwork
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.rig import OPTICAL
from multimodal_perception.runtime.card import Training, load_card
from multimodal_perception.runtime.open_model import open_one
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.sensors.lidar import beam_table
from multimodal_perception.training.checkpoint import read_streams, read_weights, write_weights
from multimodal_perception.training.detector.augmentation import (
    AugmentationConfig,
    DropoutConfig,
    draw_motion,
    fewer_beams,
    moved_boxes,
    moved_points,
    painted,
    thinned,
)
from multimodal_perception.training.detector.dataset import (
    DetectorData,
    Item,
    collate,
    feature_path,
    repeated,
    store_features,
)
from multimodal_perception.training.detector.export import export_detector
from multimodal_perception.training.detector.large_vehicle_head import guesses, train_measures
from multimodal_perception.training.detector.losses import proposal_losses
from multimodal_perception.training.detector.proposal_selection import (
    choose_proposals,
    confidences,
    match,
    refinement_targets,
)
from multimodal_perception.training.detector.samples import (
    SampleError,
    read_sample,
    sample_of,
    sample_paths,
    write_sample,
)
from multimodal_perception.training.detector.train import (
    DetectorTraining,
    train_proposals,
    train_refinement,
    trunks_of,
)
from multimodal_perception.training.loop import Loop, LoopConfig
from test.networks.detectors import SMALL


def frame_of(seed: int) -> SensorFrame:
    """A car of random points ahead of noise, a camera and a thermal camera that look at it."""
    rng = np.random.default_rng(seed)
    box = np.array([rng.uniform(4, 9), rng.uniform(-3, 3), 0.8, 4.2, 1.8, 1.6, 0.3], np.float32)
    car = rng.uniform(-0.5, 0.5, (300, 3)) * box[3:6]
    car = car @ poses.from_xyz_rpy((0, 0, 0), (0, 0, 0.3))[:3, :3].T + box[:3]
    ground = np.column_stack([rng.uniform(-12, 12, (600, 2)), rng.normal(0, 0.02, 600)])
    points = np.column_stack([np.concatenate([car, ground]), rng.random(900)]).astype(np.float32)
    looks = poses.from_xyz_rpy((0, 0, 1.5)) @ OPTICAL
    labels = Boxes3D(0, "base_link", box[None], np.ones(1, np.float32), np.ones(1, np.int64))
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        cameras={
            "front": CameraImage("front", 0, "f", rng.integers(0, 255, (60, 100, 3), np.uint8))
        },
        thermals={"heat": ThermalImage("heat", 0, "h", rng.integers(0, 9999, (64, 80), np.uint16))},
        base_from_sensor={"lidar": np.eye(4), "front": looks, "heat": looks},
        intrinsics={
            "front": CameraModel.pinhole(100, 60, 60.0),
            "heat": CameraModel.pinhole(80, 64, 60.0),
        },
        labels=labels,
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for k in range(6):
        small = sample_of(frame_of(k), {"k": k})
        for kind, (h, w) in (("camera0", SMALL.camera_size), ("thermal0", SMALL.thermal_size)):
            # The samples' own size is that of the shipped network: cut to the small one's.
            small[f"{kind}.pixels"] = np.ascontiguousarray(small[f"{kind}.pixels"][:h, :w])
            small[f"{kind}.semantics"] = small[f"{kind}.semantics"][: h // 8, : w // 8]
        write_sample(folder / f"{k}.npz", small)
    return folder


def configured(stage: str, steps: int) -> DetectorTraining:
    loop = LoopConfig(steps=steps, batch=2, workers=0, save_every=2, precision="fp32")
    if stage == "lidar":
        alone = dataclasses.replace(SMALL, global_fusion=False)
        return DetectorTraining("proposals", alone, loop=loop)
    return DetectorTraining(stage, SMALL, loop=loop)  # type: ignore[arg-type]


def test_from_samples_to_boxes(samples: Path, tmp_path: Path) -> None:
    first = train_proposals(configured("proposals", 4), samples, tmp_path / "p")
    assert (tmp_path / "p" / "curves.png").stat().st_size > 1000
    weights = tmp_path / "p" / "proposals.safetensors"
    train_refinement(configured("refinement", 2), samples, tmp_path / "r", weights)
    cards = export_detector(
        SMALL,
        weights,
        tmp_path / "r" / "refinement.safetensors",
        tmp_path / "small",
        Training("train detector", 0, 0.0, "test"),
    )
    names = ["small", "small_camera", "small_thermal", "small_refinement"]
    assert [c.name for c in cards] == names
    # Without LiDAR another proposal network can look, at the same images' features.
    other = read_weights(weights)
    other["head.heat.bias"] = other["head.heat.bias"] + 2.0
    write_weights(other, tmp_path / "blind.safetensors")
    training, out = Training("train detector", 0, 0.0, "test"), tmp_path / "both"
    export_detector(SMALL, weights, None, out, training, blind=tmp_path / "blind.safetensors")
    both = FusionDetector(
        FusionConfig(str(out), min_score=0.0), RuntimeConfig(order=("onnxruntime",))
    )
    unlit = dataclasses.replace(frame_of(9), lidars={})
    plain = open_detector(
        f"{tmp_path / 'small'}+none", PipelineConfig(fusion=FusionConfig(min_score=0.0))
    )
    found, less = (d.detect(unlit, ground_cloud(unlit)) for d in (both, plain))
    assert len(found) and found.scores.max() > less.scores.max()
    other["camera_neck.fine.bias"] = other["camera_neck.fine.bias"] + 1.0
    write_weights(other, tmp_path / "blind.safetensors")
    with pytest.raises(UserError, match="other image networks than"):
        export_detector(SMALL, weights, None, out, training, blind=tmp_path / "blind.safetensors")
    # The folders together have the weights of the whole.
    whole, joined = read_weights(weights), read_weights(tmp_path / "small")
    assert set(whole) == set(joined) and all(torch.equal(whole[n], joined[n]) for n in whole)
    detector = FusionDetector(
        FusionConfig(str(tmp_path / "small"), min_score=0.0), RuntimeConfig(order=("onnxruntime",))
    )
    frame = frame_of(9)
    boxes = detector.detect(frame, ground_cloud(frame))
    assert len(boxes) and np.isfinite(boxes.boxes).all()
    assert (np.diff(boxes.scores) <= 1e-6).all() and detector.counts["geometric_instead"] == 0
    for part in ({"cameras": {}}, {"thermals": {}}, {"lidars": {}}):
        fewer = dataclasses.replace(frame, **part)
        assert np.isfinite(detector.detect(fewer, ground_cloud(fewer)).scores).all()
    blind = dataclasses.replace(frame, lidars={}, cameras={}, thermals={})
    assert not len(detector.detect(blind, ground_cloud(blind)))
    assert detector.counts["nothing_that_sees"] == 1
    alone = open_detector(f"{tmp_path / 'small'}+none")
    assert isinstance(alone, FusionDetector)
    assert not np.array_equal(alone.detect(frame, ground_cloud(frame)).scores, boxes.scores)
    with pytest.raises(UserError, match="settings: not those of"):
        open_detector(f"{tmp_path / 'small'}+detector_refinement")
    # ONNX Runtime and torch say the same.
    card = load_card(tmp_path / "small")
    rng = np.random.default_rng(0)
    inputs = {
        n: rng.integers(0, 255, s.shape).astype(s.dtype)
        if s.dtype != "float32"
        else rng.uniform(-1, 1, s.shape).astype(np.float32)
        for n, s in card.inputs.items()
    }
    inputs["cells"] = rng.permutation(SMALL.pillars.size**2)[None, : SMALL.pillars.most]
    inputs["camera_seen"][:], inputs["thermal_seen"][:] = 1.0, 1.0
    a = open_one("onnxruntime", card, RuntimeConfig()).run(inputs)
    b = open_one("torch", card, RuntimeConfig(device="cpu")).run(inputs)
    for name in ("scores", "boxes", "bev"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)
    assert isinstance(first, torch.nn.Module)


def test_frozen_modules_stay_and_the_rest_is_trained(samples: Path, tmp_path: Path) -> None:
    train_proposals(configured("proposals", 1), samples, tmp_path / "a")
    train_proposals(configured("lidar", 1), samples, tmp_path / "b")
    starts = [tmp_path / k / "proposals.safetensors" for k in "ab"]
    frozen = ("encoder", "backbone", "neck", "head", "camera_neck")
    config = dataclasses.replace(configured("proposals", 3), frozen=frozen)
    train_proposals(config, samples, tmp_path / "p", starts)
    images, lidar = (read_weights(s) for s in starts)
    trained = read_weights(tmp_path / "p" / "proposals.safetensors")
    for name, value in trained.items():
        part = name.split(".")[0]
        # What both starts have is the last one's, and running means of batch norms stand still.
        before = lidar.get(name, images[name])
        if part in frozen or "trunk" in part:
            assert torch.equal(value, before), name
        elif name == "camera_fusion.scale":
            assert not torch.equal(value, before)
    assert not torch.equal(images["head.heat.weight"], lidar["head.heat.weight"])


def test_a_module_to_freeze_that_is_not_there(samples: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configured("proposals", 1), frozen=("tail",))
    with pytest.raises(UserError, match="frozen: ProposalNetwork has no module 'tail'"):
        train_proposals(config, samples, tmp_path / "p")


def test_measures_alone_are_trained_on_stored_proposals(samples: Path, tmp_path: Path) -> None:
    train_proposals(configured("proposals", 2), samples, tmp_path / "p")
    first = tmp_path / "p" / "proposals.safetensors"
    weights = read_weights(first)
    weights["head.code.bias"][3:6] = torch.tensor([8.0, 2.5, 3.0]).log()  # all as large as lorries
    write_weights(weights, first)
    train_refinement(configured("refinement", 1), samples, tmp_path / "r", first)
    start = tmp_path / "r" / "refinement.safetensors"
    config = configured("measures", 150)
    loop = dataclasses.replace(config.loop, batch=64, save_every=1000)
    config = dataclasses.replace(config, loop=loop, looks=2)
    train_measures(config, samples, tmp_path / "m", first, [start])
    before, after = read_weights(start), read_weights(tmp_path / "m" / "refinement.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "head.outline.4.weight" in changed
    assert all(name.startswith("head.outline.") for name in changed)
    rows = (tmp_path / "m" / "curves.csv").read_text().split()
    losses = [float(r.split(",")[2]) for r in rows if "loss/total" in r]
    assert len(losses) == 150 and losses[-1] < 0.5 * losses[0]


def test_guesses_keep_the_near_end_of_proposals() -> None:
    labels = np.array([0, 3, 2])
    boxes = np.array(
        [[5, 0, 1, 4, 2, 1.5, 0], [20, 1, 1.5, 12, 2.5, 3, 0], [-30, 9, 1.6, 7, 2.3, 3, 3.1]],
        np.float32,
    )
    proposed = boxes + 0.0
    proposed[1, [0, 3]] = 19.0, 10.0  # shorter than it is: its near end is at 14 m all the same
    proposed = np.concatenate([proposed, [[8] * 7]]).astype(np.float32)
    pool = proposed, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 2, 2, 4])
    nothing = np.zeros((0, 4), np.float32)
    item = Item({}, nothing, boxes, labels, None, Views([], [], (8, 8), (8, 8)), None)
    many = [guesses(item, pool, np.random.default_rng(k)) for k in range(50)]
    guessed, scores, classes = (np.concatenate(parts) for parts in zip(*many, strict=True))
    # What they are said to be is what was proposed, right or wrong.
    assert set(classes) == {2} and set(scores) == {np.float32(0.8), np.float32(0.7)}
    bus = guessed[guessed[:, 0] > 0]
    near, far = bus[:, 0] - bus[:, 3] / 2, bus[:, 0] + bus[:, 3] / 2
    assert abs(near.mean() - 14.0) < 0.05 and 0.1 < near.std() < 0.2
    assert abs(np.median(far) - 24.0) < 0.2 and far.std() > 0.5
    truck = guessed[guessed[:, 0] < 0]  # it looks away, and stands behind: its rear is the near end
    assert abs((truck[:, 0] + truck[:, 3] / 2).mean() + 26.5) < 0.05
    for few in (labels[:1], labels[:0]):
        fewer = dataclasses.replace(item, boxes=boxes[: len(few)], labels=few)
        assert [len(v) for v in guesses(fewer, pool, np.random.default_rng(0))] == [0, 0, 0]


def test_trunks_of_a_segmentation_network_go_into_the_model(samples: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configured("proposals", 1), trunks="segmentation")
    train_proposals(config, samples, tmp_path / "p")
    weights = tmp_path / "p" / "proposals.safetensors"
    told, streams = read_weights(weights), read_streams("segmentation")
    for kind, stream in zip(("camera", "thermal"), streams, strict=True):
        own = [k for k in told if k.startswith(f"{kind}_trunk.")]
        assert own
        for name in own:
            torch.testing.assert_close(told[name], stream[name.removeprefix(f"{kind}_trunk.")])
    # The refinement looks at features of these trunks, whatever was stored before.
    store_features(sample_paths(samples), *trunks_of("imagenet"))
    train_refinement(configured("refinement", 1), samples, tmp_path / "r", weights)
    assert store_features(sample_paths(samples), *trunks_of("segmentation")) == 0
    training = Training("train detector", 0, 0.0, "test")
    card, *_ = export_detector(SMALL, weights, None, tmp_path / "small", training)
    assert torch.equal(
        read_weights(card.path)["camera_trunk.stem.0.weight"], told["camera_trunk.stem.0.weight"]
    )
    # Another detector can have the same.
    assert store_features(sample_paths(samples), *trunks_of(str(card.path))) == 0
    with pytest.raises(UserError, match="no two EfficientNet-Lite0 streams"):
        trunks_of("image_fusion")


def test_stored_features_are_those_of_the_trunks_at_hand(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "0.npz"
    path.write_bytes((samples / "0.npz").read_bytes())
    imagenet, segmenting = trunks_of("imagenet"), trunks_of("segmentation")
    assert store_features([path], *imagenet) == 1 and store_features([path], *imagenet) == 0
    before = read_sample(feature_path(path))
    assert store_features([path], *segmenting) == 1
    after = read_sample(feature_path(path))
    assert not np.array_equal(before["thermal0.coarse"], after["thermal0.coarse"])
    feature_path(path).write_bytes(b"cut off")
    assert store_features([path], *segmenting) == 1
    np.testing.assert_array_equal(
        read_sample(feature_path(path))["camera0.fine"], after["camera0.fine"]
    )


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    samples: Path, tmp_path: Path
) -> None:
    whole = train_proposals(configured("proposals", 4), samples, tmp_path / "whole")
    half = configured("proposals", 4)

    class Stop(Exception):
        pass

    from multimodal_perception.training import loop as module

    saved = module.Loop._save

    def save_and_stop(self: module.Loop) -> None:
        saved(self)
        if self.step == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Loop, "_save", save_and_stop)
        with pytest.raises(Stop):
            train_proposals(half, samples, tmp_path / "half")
    resumed = train_proposals(half, samples, tmp_path / "half")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_augmentation_keeps_points_in_their_boxes() -> None:
    frame = frame_of(0)
    assert frame.labels is not None
    points = frame.points_in_base()
    before = points_in_boxes(points, frame.labels.boxes, 0.01)
    for seed in range(20):
        motion = draw_motion(AugmentationConfig(turn=3.0), np.random.default_rng(seed))
        after = points_in_boxes(
            moved_points(points, motion), moved_boxes(frame.labels.boxes, motion), 0.02
        )
        assert after[0] >= before[0]


def test_fewer_beams_are_as_far_apart_as_those_of_cheaper_units() -> None:
    lidar = np.array([0.3, -0.2, 1.8], np.float32)
    elevation, azimuth = np.meshgrid(beam_table("hdl64"), np.arange(360.0))
    e, a = np.radians(elevation.ravel()), np.radians(azimuth.ravel())
    ways = np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    points = np.column_stack([lidar + 20.0 * ways, np.ones(len(e))]).astype(np.float32)
    always, counts = AugmentationConfig(beams=1.0), []
    for seed in range(40):
        left = fewer_beams(points, lidar, always, np.random.default_rng(seed))
        rings = np.unique(np.degrees(np.arcsin((left[:, 2] - lidar[2]) / 20.0)).round(2))
        counts.append(len(rings))
        assert (np.diff(rings) > 0.35).all()  # none beside another
    height = 26.8  # degrees from an HDL-64E's highest ring to its lowest
    assert min(counts) <= height / 2.0 + 1 and max(counts) >= 0.7 * height / (2 / 3)
    assert fewer_beams(points, lidar, AugmentationConfig(), np.random.default_rng(0)) is points


def test_paint_changes_each_object_alone() -> None:
    rng = np.random.default_rng(1)
    boxes = np.array([[4, 2, 1, 4, 2, 2, 0.7], [-6, 1, 1, 10, 2.5, 3, -2.0]], np.float32)
    points = rng.uniform(-12, 12, (20_000, 4)).astype(np.float32)
    points[:, 2], points[:, 3] = points[:, 2] / 6 + 1, 0.5
    before = points.copy()
    after = painted(points, boxes, AugmentationConfig(paint=0.6), rng)
    assert (points == before).all() and (after[:, :3] == before[:, :3]).all()
    gains = []
    for box in boxes:
        held = inside(points, box)
        gains.append(after[held, 3].mean() / 0.5)
        np.testing.assert_allclose(after[held, 3], 0.5 * gains[-1], rtol=1e-5)
    assert abs(gains[0] - gains[1]) > 0.01 and all(0.4 <= g <= 1.6 for g in gains)
    elsewhere = ~(inside(points, boxes[0]) | inside(points, boxes[1]))
    assert (after[elsewhere, 3] == 0.5).all()
    assert painted(points, boxes, AugmentationConfig(), rng) is points


def test_contrast_keeps_the_order_of_intensities_and_their_bounds() -> None:
    points = np.zeros((256, 4), np.float32)
    points[:, 3] = np.linspace(0, 1, 256)
    config = AugmentationConfig(thin=0.0, fade=0.0, contrast=0.7)
    middles = []
    for seed in range(30):
        after = thinned(points, config, np.random.default_rng(seed))[:, 3]
        assert after[0] == 0 and after[-1] == 1 and (np.diff(after) > 0).all()
        middles.append(float(np.log(after[128]) / np.log(points[128, 3])))
    assert 0.49 < min(middles) < 0.7 and 1.4 < max(middles) < 2.02


def test_labels_that_no_ring_meets_are_not_learnt(samples: Path) -> None:
    alone = DropoutConfig(1.0, 0.0, 0.0, 0.0, 0.0)
    paths = sample_paths(samples)
    few = AugmentationConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, beams=1.0)
    for seed in range(4):
        item = DetectorData(paths, SMALL, few, alone, seed, stored=False)[0]
        assert len(item.points) < 0.7 * len(read_sample(paths[0])["points"])
        assert (points_in_boxes(item.points, item.boxes, 0.1) > 0).all()


def test_what_stands_on_a_slope_is_learnt_as_on_level_ground(samples: Path, tmp_path: Path) -> None:
    """As the detector sees it, though images show it where it is."""
    plain = read_sample(sample_paths(samples)[0])
    sloped = dict(plain)
    sloped["points"], sloped["boxes"] = plain["points"].copy(), plain["boxes"].copy()
    sloped["points"][:, 2] += np.rint(0.05 * plain["points"][:, 0]).astype(np.int16)
    sloped["boxes"][:, 2] += 0.05 * plain["boxes"][:, 0]
    items = []
    for name, arrays in (("plain", plain), ("sloped", sloped)):
        write_sample(tmp_path / f"{name}.npz", arrays)
        items.append(DetectorData([tmp_path / f"{name}.npz"], SMALL, None, None, stored=False)[0])
    level, slope = items
    np.testing.assert_allclose(slope.boxes, level.boxes, atol=0.12)
    np.testing.assert_allclose(
        slope.boxes[:, [0, 1, 3, 4, 5, 6]], level.boxes[:, [0, 1, 3, 4, 5, 6]]
    )
    assert np.median(np.abs(slope.points[:, 2] - level.points[:, 2])) < 0.03
    assert np.abs(sloped["boxes"][:, 2] - plain["boxes"][:, 2]).max() > 0.3
    lifted = slope.boxes[:, 2] + slope.views.ground.at(*slope.boxes[:, :2].T)
    np.testing.assert_allclose(np.sort(lifted), np.sort(sloped["boxes"][:, 2]), atol=1e-3)


def test_the_same_item_whoever_asks(samples: Path) -> None:
    made = [
        DetectorData(
            sample_paths(samples), SMALL, AugmentationConfig(), DropoutConfig(), 5, stored=False
        )[3]
        for _ in range(2)
    ]
    for name, values in made[0].arrays.items():
        np.testing.assert_array_equal(values, made[1].arrays[name])


def test_a_frame_without_lidar_counts_as_much_as_said(samples: Path) -> None:
    def losses_of(lidar: float, weight: float) -> dict[str, float]:
        # The second of two frames has its LiDAR, or not; the first always has it.
        items = [
            DetectorData(sample_paths(samples), SMALL, None, dropout, stored=False)[k]
            for k, dropout in enumerate(
                (None, DropoutConfig(0.0, lidar, 0.0, 0.0, 0.0, blind_weight=weight))
            )
        ]
        torch.manual_seed(0)
        network = ProposalNetwork(SMALL, pretrained=False).eval()
        losses = proposal_losses(network, collate(items), 0.0)
        return {name: float(value.detach()) for name, value in losses.items()}

    seeing, whole, none = losses_of(0.0, 0.0), losses_of(1.0, 1.0), losses_of(1.0, 0.0)
    assert losses_of(0.0, 1.0) == seeing  # frames with a LiDAR count whole
    assert len({round(losses["heat"], 6) for losses in (seeing, whole, none)}) == 3
    half = losses_of(1.0, 0.5)
    assert min(none["heat"], whole["heat"]) < half["heat"] < max(none["heat"], whole["heat"])


def test_frames_with_rare_classes_are_repeated(samples: Path, tmp_path: Path) -> None:
    common = sample_paths(samples)
    rare = read_sample(common[0])
    rare["labels"] = np.full_like(rare["labels"], CLASS_NAMES.index("bus"))
    paths = [*common[1:], *common[1:], *common[1:], tmp_path / "rare.npz"]
    write_sample(paths[-1], rare)
    # One frame of 16 shows a bus: wanted in a quarter of them, it comes sqrt(16 / 4) times.
    counts = Counter(repeated(paths, 0.25))
    assert counts[paths[-1]] == 2 and counts[paths[0]] == 3
    assert repeated(paths, 0.25) == repeated(paths, 0.25)
    assert len(repeated(paths, 0.001)) == len(paths)


def test_bad_samples_are_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no samples"):
        sample_paths(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    data = DetectorData(sample_paths(tmp_path), SMALL, None, None)
    with pytest.raises(SampleError, match=r"a\.npz"):
        data[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 1000])
def test_learning_rates_rise_and_fall_for_any_number_of_steps(steps: int, tmp_path: Path) -> None:
    config = LoopConfig(steps=steps, batch=1)
    loop = Loop(torch.nn.Linear(1, 1), [0, 1], list, config, tmp_path)  # type: ignore[arg-type]
    rates = []
    for _ in range(steps):
        rates += loop.schedule.get_last_lr()
        loop.optimizer.step()
        loop.schedule.step()
    assert np.isfinite(rates).all() and 0 < max(rates) <= config.learning_rate * 1.000001
    assert loop.schedule.get_last_lr()[0] <= config.learning_rate / 10


def test_a_batch_larger_than_the_samples_is_refused(samples: Path, tmp_path: Path) -> None:
    config = configured("proposals", 2)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, batch=50))
    with pytest.raises(UserError, match="fewer than a batch"):
        train_proposals(config, samples, tmp_path / "p")


def test_the_seen_end_of_a_bus_is_refined_to_the_bus() -> None:
    bus = [20.0, 1.0, 1.5, 12.0, 2.5, 3.0, 0.2]
    along = np.array([np.cos(0.2), np.sin(0.2)])
    end = [*(np.array(bus[:2]) - 3.6 * along), 1.5, 4.8, 2.4, 2.9, 0.2]  # 0.22 of the bus
    beside = [20.0, 3.4, 1.5, 4.8, 2.4, 2.9, 0.2]
    flat = [20.0, 1.0, 0.1, 1.0, 0.5, 0.2, 0.2]  # all within, next to nothing of it
    proposals = np.array([bus, end, beside, flat], np.float32)
    boxes = np.array([[-30, 0, 1, 4, 2, 2, 0], bus], np.float32)
    best, found = match(proposals, boxes)
    assert best[:2].tolist() == [1, 1] and found.tolist() == [True, True, False, False]
    target = refinement_targets(proposals, boxes, np.array([1, 3]))
    assert target["kinds"].tolist() == [3.0, 3.0, 0.0, 0.0]
    np.testing.assert_array_equal(target["matched"], [boxes[1], boxes[1], *proposals[2:]])
    assert target["found"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert not match(proposals, boxes[:0])[1].any()


def test_rare_classes_are_refined_more_often_than_their_share() -> None:
    labelled = np.tile(np.array([0, 0, 0, 4, 2, 1.5, 0], np.float32), (40, 1))
    labelled[:, 0], labelled[:, 1] = 8 * np.arange(40) % 80 - 40, 6 * (np.arange(40) // 10)
    labels = np.array([0] * 36 + [3] * 4)
    away = labelled + np.array([0, -40, 0, 0, 0, 0, 0], np.float32)
    boxes, scores = np.concatenate([labelled, away]), np.linspace(0.9, 0.1, 80)
    rng, times = np.random.default_rng(0), np.zeros(80)
    for _ in range(200):
        chosen = choose_proposals(boxes, scores, labelled, labels, rng)
        assert len(chosen) == len(set(chosen.tolist())) == 32 and (chosen < 40).sum() == 16
        times[chosen] += 1
    assert times[36:40].mean() > 1.8 * times[:36].mean() > 0
    alone = choose_proposals(boxes[40:], scores[40:], labelled[:0], labels[:0], rng)
    assert len(alone) == 32


def test_confidence_is_the_overlap_of_what_is_reported_in_the_class_of_its_label() -> None:
    boxes = np.array([[10, 0, 1, 4, 2, 2, 0], [30, 5, 1.5, 12, 2.5, 3, 0]], np.float32)
    refined = boxes[[1, 0, 0, 0]].copy()
    refined[1, 0] += 4.0 / 3  # IoU 1/2, halfway from 0.25 to 0.75
    refined[2, 0] += 4.0  # beside it
    refined[3, 6] = np.pi  # the same box, the other way round
    said = confidences(refined, boxes, np.array([0, 3]))
    expected = np.zeros((4, 6))
    expected[0, 3], expected[1, 0], expected[3, 0] = 1.0, 0.5, 1.0
    np.testing.assert_allclose(said, expected, atol=1e-5)
    assert not confidences(refined, boxes[:0], np.zeros(0, int)).any()
