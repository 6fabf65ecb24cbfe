"""An untrained ControlNet for a base: it proves that code paths work, nothing about how a picture is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from worker.ml.families.controlnets import NETWORKS
from worker.ml.models import Base

KINDS = 8  # of a network for several
SMALL = {
    "conditioning_embedding_out_channels": (8, 8, 16, 16),
    "num_layers": 1,
    "num_single_layers": 1,
    "control_layers_places": [0, 1],
    "control_refiner_layers_places": [0],
    "control_in_dim": 16,
}


def build_tiny(folder: Path, base: Base, *, union: bool = False, seed: int = 0, **config: Any) -> None:
    """Write a network for this base to the folder: for one kind of picture, or (`union`) for several, by their numbers.

    `config` is added to its configuration.
    """
    denoiser = base.denoiser
    fitting = [network.diffusers_class for network in NETWORKS.values() if network.denoiser == type(denoiser).__name__]
    width = denoiser.config.get("block_out_channels", [None])[0]
    several = {"num_control_type": KINDS, "num_mode": KINDS, "num_trans_channel": width, "num_proj_channel": width}
    network_class = fitting[-1 if union else 0]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)  # module constructors use the global generator only
        network = network_class.from_config({**denoiser.config, **SMALL, **(several if union else {}), **config})
        for weights in network.parameters():
            if not weights.any():  # untrained networks are silent
                weights.normal_(std=0.05)
    network.save_pretrained(folder)
