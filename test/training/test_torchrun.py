"""Distributed training under torchrun: both processes train one network, and a resumed run is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from multimodal_perception.training.bev_fusion.drives import render_drives
from multimodal_perception.training.bev_fusion.image_features import feature_path
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.bev_fusion.train_images import train_image_encoders
from test.training.bev_fusion.tiny import SEED, configured, rendering
from test.training.event_files import read_scalars
from test.training.recipe.tiny_recipes import detector_stage

SCRIPT = """
import sys
from pathlib import Path
import torch
from multimodal_perception.configuration import load
from multimodal_perception.training import loop
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.train_stage1 import train_stage1

config, data, out = load(BevFusionTraining, sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
start = [Path(sys.argv[4])]
torch.set_num_threads(1)
advance = loop.Loop._advance

class Interrupted(Exception):
    pass

def interrupt(self, *arguments):
    if self.step == 2:
        raise Interrupted
    return advance(self, *arguments)

uninterrupted = train_stage1(config, data, out / "uninterrupted", start)
loop.Loop._advance = interrupt
try:
    train_stage1(config, data, out / "resumed", start)
except Interrupted:
    loop.Loop._advance = advance
torch.distributed.barrier()
resumed = train_stage1(config, data, out / "resumed", start)
rank = torch.distributed.get_rank()
states = {"uninterrupted": uninterrupted.state_dict(), "resumed": resumed.state_dict()}
torch.save(states, out / f"{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.timeout(600)
def test_two_processes_train_one_network_and_resume(tmp_path: Path) -> None:
    samples, encoders = tmp_path / "samples", tmp_path / "encoders"
    render_drives([SEED], rendering(2), samples)
    train_image_encoders(configured("image_encoder", 1), samples, encoders)
    loop = {"steps": 3, "batch_size": 1, "workers": 0, "save_every": 2, "precision": "fp32"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({**detector_stage("fusion"), "loop": loop}))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "script.py")]
    command += [str(tmp_path / "t.yaml"), str(samples), str(tmp_path)]
    command.append(str(encoders / "camera_encoder.safetensors"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-8000:]
    first, second = (torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(2))
    for name, value in first["uninterrupted"].items():
        assert torch.equal(value, second["uninterrupted"][name]), name
        assert torch.equal(value, first["resumed"][name]), name
        assert torch.equal(value, second["resumed"][name]), name
    # Each rank stored the image features of half of the samples.
    assert all(feature_path(p).exists() for p in sample_paths(samples))
    assert (tmp_path / "uninterrupted" / "stage1.safetensors").exists()
    assert len(read_scalars(tmp_path / "uninterrupted", "loss/total")) == 3
    assert len(read_scalars(tmp_path / "resumed", "loss/total")) == 3
