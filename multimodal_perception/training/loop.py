"""The training loop of every stage: one-cycle Adam, running averages, checkpoints, curves.

Alone or under torchrun on several GPUs; interrupted, it goes on exactly where it was.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.training import checkpoint
from multimodal_perception.training.curves import Curves
from multimodal_perception.training.detector.gradient_balancing import GradientCalibration
from multimodal_perception.training.precision import Precision, mixed_precision

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    steps: of the optimiser. batch: frames a step on each device. learning_rate: the highest of the one
    cycle. weight_decay: of AdamW. clip: largest norm of the gradient. average: share of the running
    average kept each step. precision: of the forward pass; bf16 and fp16 as torch.autocast has them,
    where the device does. workers: processes that prepare frames. save_every: steps between
    checkpoints. seed: of all chance.
    """

    steps: int = field(default=2000, metadata={"min": 1, "max": 10_000_000})
    batch: int = field(default=4, metadata={"min": 1, "max": 1024})
    learning_rate: float = field(default=2e-3, metadata={"min": 1e-7, "max": 1.0})
    weight_decay: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    clip: float = field(default=10.0, metadata={"min": 0.0, "max": 1e6})
    average: float = field(default=0.998, metadata={"min": 0.0, "max": 1.0})
    precision: Precision = "bf16"
    workers: int = field(default=1, metadata={"min": 0, "max": 64})
    save_every: int = field(default=200, metadata={"min": 1, "max": 1_000_000})
    seed: int = 0


class Shuffled(Sampler[int]):
    """Indices of one epoch in an order that (seed, epoch) tells, from a place in it on, for one rank."""

    def __init__(self, count: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.seed, self.rank, self.ranks = count, seed, rank, ranks
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count // self.ranks - self.start

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        mine = order[self.rank :: self.ranks][: self.count // self.ranks]
        return iter(mine[self.start :].tolist())


class Loop:
    """Trains one network on a data set whose items a step function turns into losses."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset[Any],
        collate: Callable,
        config: LoopConfig,
        out: Path,
        calibration: GradientCalibration | None = None,
    ) -> None:
        """calibration: scales gradients before each step of the optimiser."""
        self.config, self.out, self.data, self.collate = config, out, data, collate
        self.rank, self.ranks = join()
        self.device = _device(self.rank)
        self.network = network.to(self.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.calibration = None if calibration is None else calibration.to(self.device)
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, config.learning_rate, weight_decay=config.weight_decay
        )
        total = config.steps + 1
        # The rise must be longer than a step, or its slope is a division by zero.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total, pct_start=max(0.25, 1.5 / total)
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16" and self.device.type == "cuda"
        )
        self.step = 0
        self._recent: deque[float] = deque(maxlen=50)
        if len(data) < config.batch * self.ranks:  # type: ignore[arg-type]
            raise UserError(f"{len(data)} samples are fewer than a batch of {config.batch}")  # type: ignore[arg-type]

    def run(self, losses_of: Callable[[nn.Module, Any], Losses]) -> nn.Module:
        """Train to the end, from the last checkpoint in `out` if there is one. Returns the network with
        its averaged weights. losses_of: named losses of a batch, "total" among them."""
        self.step = checkpoint.resume(self.out / "checkpoint.pt", self._parts(), self.device)
        self.curves = Curves(self.out, self.step)
        self._spread(self.network)
        self._spread(self.average)
        writer = SummaryWriter(str(self.out / "tensorboard")) if self.rank == 0 else None
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=self.rank > 0)
        try:
            for batch in self._batches():
                losses = self._advance(batch, losses_of)
                self._note(losses, writer, bar)
                if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                    self._save()
        finally:
            bar.close()
            if writer is not None:
                writer.close()
        self._spread(self.average)  # its batch statistics are of each rank's own frames
        self.network.load_state_dict(self.average.state_dict())
        return self.network.eval()

    def _spread(self, network: nn.Module) -> None:
        """Give every rank the first one's state."""
        for value in network.state_dict().values() if self.ranks > 1 else ():
            torch.distributed.broadcast(value, 0)

    def _advance(self, batch: Any, losses_of: Callable[[nn.Module, Any], Losses]) -> Losses:
        self.network.train()
        # Chance of its own for each step, so that it is the same after an interruption.
        torch.manual_seed(1_000_003 * self.config.seed + self.step * self.ranks + self.rank)
        with mixed_precision(self.device.type, self.config.precision):
            losses = losses_of(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["total"]).backward()
        self._share_gradients()
        self.scaler.unscale_(self.optimizer)
        if self.calibration is not None:
            self.calibration.scale()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        if not torch.isfinite(norm):
            losses["skipped"] = torch.ones(())  # a step that would only do harm
        else:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        # Young averages follow faster.
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        average = self.average.state_dict()
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.dtype.is_floating_point:
                    average[name].lerp_(value, 1 - keep)
                else:
                    average[name].copy_(value)
        return losses

    def _share_gradients(self) -> None:
        """The mean of all ranks' gradients; a part that a rank's frames did not use counts as zero."""
        if self.ranks == 1:
            return
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.ranks

    def _batches(self) -> Iterator[Any]:
        """Batches from where the loop stands to its end, epoch after epoch."""
        c = self.config
        count = len(self.data)  # type: ignore[arg-type]
        sampler = Shuffled(count, c.seed, self.rank, self.ranks)
        an_epoch = count // self.ranks // c.batch
        while self.step < c.steps:
            sampler.epoch, done = divmod(self.step, an_epoch)
            sampler.start = done * c.batch
            self.data.epoch = sampler.epoch  # type: ignore[attr-defined]
            loader = DataLoader(
                self.data,
                c.batch,
                sampler=sampler,
                num_workers=c.workers,
                collate_fn=self.collate,
                drop_last=True,
            )
            for batch in loader:
                yield batch
                if self.step >= c.steps:
                    return

    def _note(self, losses: Losses, writer: SummaryWriter | None, bar: tqdm) -> None:
        if writer is None:
            return
        figures = {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
        self.curves.add(self.step, figures)
        for name, value in figures.items():
            writer.add_scalar(name, value, self.step)
        self._recent.append(figures["loss/total"])
        bar.set_postfix(loss=f"{np.mean(self._recent):.3f}", refresh=False)
        bar.update()

    def _parts(self) -> dict[str, checkpoint.Stateful]:
        """What a checkpoint holds."""
        parts: dict[str, checkpoint.Stateful] = {
            "network": self.network,
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return parts if self.calibration is None else {**parts, "calibration": self.calibration}

    def _save(self) -> None:
        if self.rank == 0:
            checkpoint.save(self.out / "checkpoint.pt", self._parts(), self.step)
            self.curves.save()


def join() -> tuple[int, int]:
    """This process's rank and how many there are; joins torchrun's group."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), ranks


def wait_for_all() -> None:
    """Go on when every rank has come so far."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _device(rank: int) -> torch.device:
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device("cpu")
