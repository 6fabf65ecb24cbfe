"""Code shared by the training scripts: checkpoints, a log, a budget of minutes, and stopping by a signal."""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

DECAY = 0.2  # the last share of the budget, in which the learning rate decays


class Run:
    """One training with a budget of minutes, counted over all sessions of the training.

    Args:
        budget_min: may be increased when resuming; the learning rate then rises again.
    """

    def __init__(self, folder: Path, budget_min: float, warm_up: int = 100) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        self.step = 0
        self._budget_s = 60 * budget_min
        self._warm_up = warm_up
        self._spent_s = 0.0
        self._since = time.monotonic()
        self._stop_requested = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: object) -> None:
        self._stop_requested = True

    @property
    def spent_s(self) -> float:
        return self._spent_s + time.monotonic() - self._since

    @property
    def over(self) -> bool:
        return self._stop_requested or self.spent_s >= self._budget_s

    def rate(self) -> float:
        """Return the factor of the learning rate: it rises over the first steps and falls at the end."""
        left = max(0.0, 1 - self.spent_s / self._budget_s)
        return min(1.0, (self.step + 1) / self._warm_up) * min(1.0, left / DECAY + 0.01)

    def resume(self) -> dict[str, Any] | None:
        """Return the state that the last session saved, None in the first session."""
        if not self.checkpoint.exists():
            return None
        saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.step, self._spent_s = saved["step"], saved["spent_s"]
        return saved

    def save(self, state: dict[str, Any]) -> None:
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(state | {"step": self.step, "spent_s": self.spent_s}, unfinished)
        os.replace(unfinished, self.checkpoint)

    def log(self, **figures: float) -> None:
        line = f"{time.strftime('%H:%M:%S')} step {self.step} {self.spent_s / 60:.1f} min "
        line += " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as file:
            file.write(line + "\n")


class Average:
    """An exponential moving average of weights, with a shorter memory at first."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.weights = {name: weight.detach().float().clone() for name, weight in module.state_dict().items()}
        self._decay = decay

    @torch.no_grad()
    def add(self, module: torch.nn.Module, step: int) -> None:
        share = 1 - min(self._decay, (step + 1) / (step + 10))
        mine, new = list(self.weights.values()), [weight.float() for weight in module.state_dict().values()]
        torch._foreach_lerp_(mine, new, share)


def budget(description: str | None, minutes: float) -> float:
    """Return the minutes given on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="total minutes of training, including earlier sessions"
    )
    return float(parser.parse_args().minutes)


def psnr(error: float) -> float:
    """Convert the mean squared error of pixels in 0…1 to decibels."""
    return -10 * math.log10(error)
