"""Loading a detector's networks from its folder, and refusing what is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worker.ml.errors import ModelUnreadable, is_out_of_memory
from worker.ml.not_weights import PICKLES


def load_network(folder: Path, network_class: Any, name: str) -> Any:
    """Load one of transformers' models on the CPU, in float32, from safetensors files alone.

    `name` is for a person. Raises ModelUnreadable: missing, of another class, damaged, or without some weights.
    """
    _check_class(folder, network_class, name)
    if not any(folder.glob("*.safetensors")) and any(path.suffix in PICKLES for path in folder.iterdir()):
        raise ModelUnreadable(f"{name} has only a pickle, which is never loaded: convert it to safetensors")
    try:
        network, loading = network_class.from_pretrained(
            folder, dtype="float32", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{name} is incomplete or damaged: {str(error)[:300]}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelUnreadable(f"{name} is incomplete: it has no {missing[0]}")
    if not all(weights.isfinite().all() for weights in network.parameters()):
        raise ModelUnreadable(f"{name} is damaged: some of its weights are not finite")
    return network.requires_grad_(False).eval()


def _check_class(folder: Path, network_class: Any, name: str) -> None:
    """Raise ModelUnreadable unless the folder's configuration is for this class."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = config["model_type"]
    except FileNotFoundError as error:
        raise ModelUnreadable(f"{name} is not a detector: config.json is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnreadable(f"{name} is damaged: its config.json does not name a model") from error
    if kind != network_class.config_class.model_type:
        raise ModelUnreadable(f"{name} is a {kind}, not a {network_class.config_class.model_type}")
