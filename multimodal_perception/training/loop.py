"""The training loop of all networks.

AdamW with a one-cycle learning rate, mixed precision, an exponential moving average (EMA) of the
weights, resumable checkpoints and TensorBoard curves; DistributedDataParallel when started by torchrun.
A run that was interrupted and resumed gives the same weights as an uninterrupted run.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.training import checkpoint
from multimodal_perception.training.distributed import join_process_group, training_device
from multimodal_perception.training.precision import Precision, mixed_precision

# Scalars by name; "total" is the one that is minimised.
Losses = dict[str, Tensor]
# (network, batch, random generator of this step) -> losses.
ComputeLosses = Callable[[nn.Module, Any, np.random.Generator], Losses]
# Steps with a gradient that is not finite are skipped; training stops after MAX_SKIPPED_STEPS of them in
# a row. The limit is above the 16 steps in which GradScaler halves its initial scale of 65536 to 1.
MAX_SKIPPED_STEPS = 25


@dataclass(frozen=True)
class LoopConfig:
    """Length, speed and precision of a training run.

    Attributes:
        steps: Number of optimiser steps. Increase it for larger data sets; the learning rate is
            stretched over all steps, so a finished run cannot be extended.
        batch_size: Samples in a step, on each device. Decrease it when memory runs out, and reduce the
            learning rate with it.
        learning_rate: Peak of the one-cycle learning rate (Smith and Topin 2018). Reduce it when the
            loss diverges or when training starts from trained weights.
        warmup: Fraction of the steps in which the learning rate rises to its peak. Increase it when the
            first steps damage the weights that training starts from.
        weight_decay: Weight decay of AdamW. Increase it when the validation metrics get worse
            while the training loss still improves.
        max_gradient_norm: Gradients with a larger L2 norm are scaled down to it. Decrease it when the
            loss has spikes.
        ema_decay: Decay of the exponential moving average of the weights, which is what a run
            writes. It is smaller in the first steps. Increase it for long training runs, set 0 to write
            the last weights.
        precision: Arithmetic of the forward pass: fp32, or bf16 and fp16 by torch.autocast. CPUs
            without bfloat16 instructions use fp32. Use fp32 to compare results between machines.
        workers: Processes that prepare samples, 0 for none. Increase it when the device waits for data.
        save_every: Steps from one checkpoint to the next. Decrease it on machines that may be
            interrupted; the work since the last checkpoint is lost.
        seed: Seed of the initial weights, the order of the samples and all augmentation. Change it to
            measure how much the results vary by chance.
    """

    steps: int = field(default=2000, metadata={"min": 1, "max": 10_000_000})
    batch_size: int = field(default=4, metadata={"min": 1, "max": 1024})
    learning_rate: float = field(default=2e-3, metadata={"min": 1e-7, "max": 1.0})
    warmup: float = field(default=0.25, metadata={"min": 0.0, "max": 0.9})
    weight_decay: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    max_gradient_norm: float = field(default=10.0, metadata={"min": 0.0, "max": 1e6})
    ema_decay: float = field(default=0.998, metadata={"min": 0.0, "max": 1.0})
    precision: Precision = "bf16"
    workers: int = field(default=1, metadata={"min": 0, "max": 64})
    save_every: int = field(default=200, metadata={"min": 1, "max": 1_000_000})
    seed: int = field(default=0, metadata={"min": 0, "max": 2**31 - 1})


class EpochSampler(Sampler[int]):
    """Shuffled indices of one epoch for one rank; the order depends on the seed and the epoch only.

    start: index of the first sample within the epoch, larger than 0 after a resumption.
    """

    def __init__(self, count: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count // self.world_size - self.start

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        own = order[self.rank :: self.world_size][: self.count // self.world_size]
        return iter(own[self.start :].tolist())


# Settings that may differ when a training run is resumed: they do not change its result.
SETTINGS_ALLOWED_TO_CHANGE_ON_RESUME = ("workers", "save_every")


class Progress:
    """Steps done and seconds spent, including interrupted runs. A part of the checkpoint."""

    def __init__(self, config: LoopConfig) -> None:
        self.step = 0
        self._settings = {
            n: v
            for n, v in dataclasses.asdict(config).items()
            if n not in SETTINGS_ALLOWED_TO_CHANGE_ON_RESUME
        }
        self._seconds_before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self.seconds, "settings": self._settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError for the checkpoint of a training run with other settings."""
        for name, value in self._settings.items():
            if state_dict["settings"][name] != value:
                raise ValueError(f"{name} was {state_dict['settings'][name]}, is {value}")
        self.step = int(state_dict["step"])
        self._seconds_before = float(state_dict["seconds"])
        self._start = time.monotonic()


class _LossModule(nn.Module):
    """The computation of the losses as a module, because DistributedDataParallel wraps a forward pass.

    The losses call methods of the network other than its forward.
    """

    def __init__(self, network: nn.Module, compute_losses: ComputeLosses) -> None:
        super().__init__()
        self.network = network
        self.compute_losses = compute_losses

    def forward(self, batch: Any, rng: np.random.Generator) -> Losses:
        losses = self.compute_losses(self.network, batch, rng)
        return {n: v if n == "total" else v.detach() for n, v in losses.items()}


class Loop:
    """Trains one network on a data set."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset[Any],
        collate: Callable[..., Any],
        config: LoopConfig,
        out: Path,
        *,
        parameter_groups: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Prepare a training run; run() starts or resumes it.

        data: map-style; its attribute `epoch` is set before each epoch, and its samples may depend on
        nothing but its own seed, the epoch and the index. parameter_groups: as torch.optim takes them,
        "lr" being the peak learning rate; by default one group of all trainable parameters. Raises
        UserError when there are fewer samples than a batch.
        """
        self.config, self.out, self.data, self.collate = config, out, data, collate
        self.rank, self.world_size = join_process_group()
        self.device = training_device(self.rank)
        self.network = network.to(self.device)
        self.ema = AveragedModel(
            self.network, multi_avg_fn=_ema_with_warmup(config.ema_decay), use_buffers=True
        )
        self.ema.requires_grad_(False).eval()
        groups = [dict(group) for group in parameter_groups or [{"params": network.parameters()}]]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            groups, config.learning_rate, weight_decay=config.weight_decay
        )
        total = config.steps + 1
        # OneCycleLR divides by the number of warm-up steps minus one: it must be more than one step.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in self.optimizer.param_groups],
            total,
            pct_start=max(config.warmup, 1.5 / total),
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16" and self.device.type == "cuda"
        )
        self.progress = Progress(config)
        self._skipped = 0
        self._recent: deque[float] = deque(maxlen=50)
        count = len(data)  # type: ignore[arg-type]
        if count < config.batch_size * self.world_size:
            raise UserError(f"{count} samples are fewer than a batch of {config.batch_size}")

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.progress.step

    @property
    def hours(self) -> float:
        """Hours spent on this training run, with interrupted parts up to their checkpoint."""
        return self.progress.seconds / 3600

    def run(
        self,
        compute_losses: ComputeLosses,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
    ) -> nn.Module:
        """Train to the last step, from the checkpoint in `out` if there is one.

        validate: figures of the averaged network, computed by rank 0 at every checkpoint and written to
        TensorBoard. Returns the network with the averaged weights, in evaluation mode. Raises UserError
        for a checkpoint of another training run, and when the loss stays infinite or NaN.
        """
        checkpoint.resume(self.out / "checkpoint.pt", self._parts(), self.device)
        forward: nn.Module = _LossModule(self.network, compute_losses)
        if self.world_size > 1:
            # With missing sensors, a rank does not use all parameters.
            forward = DistributedDataParallel(forward, find_unused_parameters=True)
        writer = self._open_writer() if self.rank == 0 else None
        total, start = self.config.steps, self.step
        bar = tqdm(total=total, initial=start, unit="step", disable=self.rank > 0)
        try:
            for batch in self._batches():
                losses = self._advance(forward, batch)
                self._log(losses, writer, bar)
                if self.step % self.config.save_every == 0 or self.step == total:
                    self._save()
                    if validate is not None and writer is not None:
                        self._validate(validate, writer)
        finally:
            bar.close()
            if writer is not None:
                writer.close()
        if self.world_size > 1:
            # Statistics of batch normalisation differ between ranks.
            for value in self.ema.module.state_dict().values():
                torch.distributed.broadcast(value, 0)
        self.network.load_state_dict(self.ema.module.state_dict())
        return self.network.eval()

    def _advance(self, forward: nn.Module, batch: Any) -> Losses:
        """One optimiser step."""
        c = self.config
        self.network.train()
        # Random numbers depend on the seed, the step and the rank only, so that a resumed run draws the
        # same ones.
        torch.manual_seed(1_000_003 * c.seed + self.step * self.world_size + self.rank)
        rng = np.random.default_rng((c.seed, self.step, self.rank))
        with mixed_precision(self.device.type, c.precision):
            losses = forward(batch, rng)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["total"]).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), c.max_gradient_norm)
        if torch.isfinite(norm):
            self.scaler.step(self.optimizer)
            self._skipped = 0
        else:
            self._skipped += 1
            if self._skipped >= MAX_SKIPPED_STEPS:
                raise UserError(
                    f"step {self.step}: the loss or its gradient was not finite in "
                    f"{self._skipped} steps in a row; reduce learning_rate"
                )
        self.scaler.update()
        self.schedule.step()
        self.progress.step += 1
        self.ema.update_parameters(self.network)
        return losses

    def _batches(self) -> Iterator[Any]:
        """Batches from the current step to the last one, epoch after epoch."""
        c = self.config
        count = len(self.data)  # type: ignore[arg-type]
        sampler = EpochSampler(count, c.seed, self.rank, self.world_size)
        steps_per_epoch = count // self.world_size // c.batch_size
        while self.step < c.steps:
            sampler.epoch, done = divmod(self.step, steps_per_epoch)
            sampler.start = done * c.batch_size
            self.data.epoch = sampler.epoch  # type: ignore[attr-defined]
            loader = DataLoader(
                self.data,
                c.batch_size,
                sampler=sampler,
                num_workers=c.workers,
                collate_fn=self.collate,
                drop_last=True,
            )
            for batch in loader:
                yield batch
                if self.step >= c.steps:
                    return

    def _open_writer(self) -> SummaryWriter:
        """TensorBoard's writer; events of lost steps after the last checkpoint are discarded."""
        return SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step + 1)

    def _log(self, losses: Losses, writer: SummaryWriter | None, bar: tqdm) -> None:
        if writer is None:
            return
        for name, value in losses.items():
            writer.add_scalar(f"loss/{name}", float(value.detach()), self.step)
        if self._skipped:
            writer.add_scalar("skipped_steps_in_a_row", self._skipped, self.step)
        writer.add_scalar("learning_rate", self.schedule.get_last_lr()[-1], self.step)
        self._recent.append(float(losses["total"].detach()))
        bar.set_postfix(loss=f"{np.mean(self._recent):.3f}", refresh=False)
        bar.update()

    def _validate(
        self, validate: Callable[[nn.Module], dict[str, float]], writer: SummaryWriter
    ) -> None:
        figures = validate(self.ema.module)
        for name, value in figures.items():
            writer.add_scalar(f"validation/{name}", value, self.step)
        tqdm.write(
            f"step {self.step}: " + ", ".join(f"{n} {value:.3f}" for n, value in figures.items())
        )

    def _parts(self) -> dict[str, checkpoint.Stateful]:
        """The parts of a checkpoint by name."""
        return {
            "progress": self.progress,
            "network": self.network,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def _save(self) -> None:
        if self.rank == 0:
            checkpoint.save(self.out / "checkpoint.pt", self._parts())


def _ema_with_warmup(decay: float) -> Callable[[Any, Any, Any], None]:
    """An update for AveragedModel: EMA whose decay is at most (1 + n) / (10 + n) after n updates, so
    that the initial weights soon have no effect."""

    def update(averaged: Any, current: Any, updates: Tensor | int) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, n)

    return update
