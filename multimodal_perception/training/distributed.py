"""Processes of a distributed training that torchrun starts, one for each device."""

from __future__ import annotations

import os

import torch
from torch import distributed


def join_process_group() -> tuple[int, int]:
    """Join the process group that torchrun describes in the environment.

    Returns the rank of this process and the number of processes; (0, 1) without torchrun.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return distributed.get_rank(), world_size


def is_distributed() -> bool:
    """Whether this process belongs to a process group."""
    return distributed.is_available() and distributed.is_initialized()


def wait_for_all_ranks() -> None:
    """Return when every rank has called this function."""
    if is_distributed():
        distributed.barrier()


def training_device(rank: int) -> torch.device:
    """The CUDA device of this rank, or the CPU."""
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device("cpu")
