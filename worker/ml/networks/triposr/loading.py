"""Reads TripoSR from a folder: its configuration, and weights in the official names as .safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from worker.ml.errors import ModelUnreadable
from worker.ml.networks.triposr import config
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.not_weights import kind_of

WEIGHTS = "model.safetensors"


def load(folder: Path, *, device: str | None = None) -> TripoSR:
    """Load a model for inference in float32; by default on a GPU if there is one. Raises ModelUnreadable."""
    network = build(folder)
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise ModelUnreadable(
            f"{folder.name} has no {WEIGHTS}: the official model.ckpt is a pickle, and is converted when it is imported"
        ) from error
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{path.name} cannot be read: {kind_of(path) or error}") from error
    check(network, weights, path.name)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return network.eval().requires_grad_(False).to(place)


def build(folder: Path) -> TripoSR:
    """Return the network that a folder's configuration describes, its weights not allocated. Raises ModelUnreadable."""
    read, vit = config.read(folder)
    with torch.device("meta"):
        network = TripoSR(read, vit)
    tokenizer = network.image_tokenizer
    tokenizer.image_mean, tokenizer.image_std = type(tokenizer).colours()  # in no file
    return network


def check(network: TripoSR, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise ModelUnreadable, naming the file, unless the weights are exactly the network's, of floating point."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in weights]
    unknown = [key for key in weights if key not in wanted]
    if missing or unknown:
        reason = (
            f"{len(missing)} tensors are missing, such as {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        )
        raise ModelUnreadable(f"{name} is not TripoSR as its configuration describes it: {reason}")
    for key, tensor in wanted.items():
        if weights[key].shape != tensor.shape:
            raise ModelUnreadable(
                f"{name} is not TripoSR as its configuration describes it: {key} is {list(weights[key].shape)}, "
                f"not {list(tensor.shape)}"
            )
        if not weights[key].is_floating_point():
            raise ModelUnreadable(f"{name} holds {weights[key].dtype} numbers in {key}: weights are fractions")
