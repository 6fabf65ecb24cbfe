"""Z-Image and its Turbo from three files: the transformer, FLUX.1's autoencoder, and the text encoder Qwen3-4B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

from worker.ml.families.single_files import kinds
from worker.ml.single_files import parts, shared_parts

BASE = (Path(__file__).parent / "z-image.json",)
TURBO = (*BASE, Path(__file__).parent / "z-image-turbo.json")
"""Where it differs from the base: weights and their names are alike, the scheduler's shift is not."""


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import `transformer`, `vae` and `qwen3`. Only the transformer's file name tells which of the two models it is.

    Raises ModelUnreadable, naming the file, for one of the wrong kind.
    """
    file = files["transformer"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    kinds.check(file, "transformer", weights, kinds.Z_IMAGE)
    turbo = "turbo" in file.stem.lower()
    plan = parts.read_configs(TURBO if turbo else BASE, configs)
    say(f"it is taken for {'Turbo, which draws' if turbo else 'the base, which is trained'}")
    parts.write_configs(target, plan)
    parts.write_part(target, "transformer", transformer(weights), transformer_shapes(plan), file)
    del weights
    for option, part, convert, shapes in (
        (
            *("vae", "vae"),
            lambda weights: shared_parts.autoencoder(weights, plan, files["vae"]),
            shared_parts.autoencoder_shapes,
        ),
        ("qwen3", "text_encoder", shared_parts.qwen3, shared_parts.qwen3_shapes),
    ):
        say(f"reading {files[option].name}")
        parts.write_part(target, part, convert(parts.read_weights(files[option])), shapes(plan), files[option])


def transformer(weights: parts.Weights) -> parts.Weights:
    """Return the transformer's weights in diffusers' names, from either naming."""
    weights = parts.below(weights, "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
    if "x_embedder.weight" not in weights:
        return weights
    converted: parts.Weights = convert_z_image_transformer_checkpoint_to_diffusers(dict(weights))
    return parts.without_views(converted)


def transformer_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: ZImageTransformer2DModel.from_config(plan["transformer/config.json"]))
