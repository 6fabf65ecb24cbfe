"""Converts the official TripoSR checkpoint, a pickle, to safetensors beside its configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worker.ml.errors import ModelUnreadable
from worker.ml.networks.triposr import config, loading
from worker.ml.not_weights import kind_of
from worker.ml.single_files.pickles import read_pickle


def import_mesh_model(checkpoint: Path, configuration: Path, target: Path) -> None:
    """Write a folder that `loading.load` reads from a checkpoint (model.ckpt or .safetensors) and its config.yaml.

    A vision transformer's folder that the configuration names is taken from beside it. Raises ModelUnreadable: a file
    is damaged, a pickle holds more than tensors, or the two do not belong together; and OSError.
    """
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(configuration, target / f"config{configuration.suffix}")
    vit = config.read_file(configuration).image_tokenizer.pretrained_model_name_or_path
    if vit not in config.VITS and (configuration.parent / vit / "config.json").is_file():
        (target / vit).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(configuration.parent / vit / "config.json", target / vit / "config.json")
    network = loading.build(target)
    weights = _read(checkpoint)
    loading.check(network, weights, checkpoint.name)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ModelUnreadable(f"{checkpoint.name} holds numbers that are not finite, in {name}: it is damaged")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, target / loading.WEIGHTS)


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    if checkpoint.suffix != ".safetensors":
        return read_pickle(checkpoint)
    try:
        return load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{checkpoint.name} cannot be read: {kind_of(checkpoint) or error}") from error
