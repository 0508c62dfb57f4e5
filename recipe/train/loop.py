"""The optimisation loop of all models: schedule, progress, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipe.train.network import Weights
from training.state_files import save_state

Losses = Mapping[str, Tensor]
"""Losses by name. Training minimises their sum and reports each."""

CHECKPOINT_EVERY = 20
REPORT_EVERY = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Length of a training, and its learning rate."""

    steps: int
    rate: float
    """Peak learning rate: reached after 50 steps, kept for a third of the training, then falling to zero."""

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising, falling = (step + 1) / 50, 1.5 * (1 - step / self.steps)
        return self.rate * max(0.01, min(1.0, rising, falling))


class Training:
    """Trains weights in place, and resumes from its checkpoint."""

    def __init__(self, name: str, weights: Weights, schedule: Schedule, folder: Path) -> None:
        """Resume a training from its checkpoint, or begin it.

        Args:
            name: Name of the checkpoint.
            weights: Weights to train.
            schedule: Length and learning rate.
            folder: Folder of the checkpoints.
        """
        self.name, self.weights, self._schedule = name, weights, schedule
        self._path = folder / f"{name}.pt"
        for weight in weights.values():
            weight.requires_grad_()
        self._optimizer = torch.optim.AdamW(
            list(weights.values()),
            lr=schedule.rate,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.is_over = False
        if self._path.exists():
            saved = torch.load(self._path)
            with torch.no_grad():
                for key, weight in weights.items():
                    weight.copy_(saved["weights"][key])
            self._optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seconds, self.is_over = saved["step"], saved["seconds"], saved["is_over"]
            print(f"{name}: resumed at step {self.step}", flush=True)

    def run(self, losses_of: Callable[[int], Losses], is_enough: Callable[[], bool] = lambda: False) -> None:
        """Train to the end of the schedule, or until `is_enough`.

        Args:
            losses_of: Computes the losses of a step.
            is_enough: Called before each checkpoint but the last; training ends if it returns true.
        """
        means: dict[str, float] = {}
        started = time.monotonic() - self.seconds
        while self.step < self._schedule.steps and not self.is_over:
            for group in self._optimizer.param_groups:
                group["lr"] = self._schedule.rate_at(self.step)
            losses = losses_of(self.step)
            self._optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
            self._optimizer.step()
            for key, loss in losses.items():
                means[key] = 0.95 * means.get(key, loss.item()) + 0.05 * loss.item()
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % REPORT_EVERY == 0:
                parts = " ".join(f"{key} {mean:.4f}" for key, mean in means.items())
                print(f"{self.name} {self.step}/{self._schedule.steps}: {parts} ({self.seconds:.0f} s)", flush=True)
            if self.step == self._schedule.steps:
                self._save()
            elif self.step % CHECKPOINT_EVERY == 0:
                self.is_over = is_enough()
                self._save()

    def _save(self) -> None:
        """Write the checkpoint.

        Raises:
            CannotWrite: It cannot be written; the old one stays intact.
        """
        state = {
            "weights": {key: weight.detach() for key, weight in self.weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "is_over": self.is_over,
        }
        save_state(self._path, state)
