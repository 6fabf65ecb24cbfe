"""FLUX.2 klein from three files: the transformer, FLUX.2's autoencoder, and the text encoder Qwen3-4B."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import kinds
from worker.ml.single_files import parts, shared_parts

DISTILLED = (Path(__file__).parent / "klein.json",)
BASE = (*DISTILLED, Path(__file__).parent / "klein-base.json")
"""Where it differs from the distilled one: weights and their names are alike."""
_STATISTICS = ("bn.running_mean", "bn.running_var")
_INSIDE = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
"""Black Forest Labs' names of layers that latent diffusion has beside encoder and decoder."""


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import `transformer`, `vae` and `qwen3`. Only the transformer's file name tells which of the two models it is.

    Raises ModelUnreadable, naming the file, for one of the wrong kind.
    """
    file = files["transformer"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    kinds.check(file, "transformer", weights, kinds.FLUX2)
    base = "base" in file.stem.lower()
    plan = parts.read_configs(BASE if base else DISTILLED, configs)
    distilled = plan["model_index.json"].get("is_distilled")
    say(f"it is taken for the {'distilled model, which draws' if distilled else 'base, which is trained'}")
    parts.write_configs(target, plan)
    parts.write_part(target, "transformer", transformer(weights, file), transformer_shapes(plan), file)
    del weights
    for option, part, convert, shapes in (
        ("vae", "vae", lambda weights: autoencoder(weights, plan, files["vae"]), autoencoder_shapes),
        ("qwen3", "text_encoder", shared_parts.qwen3, shared_parts.qwen3_shapes),
    ):
        say(f"reading {files[option].name}")
        parts.write_part(target, part, convert(parts.read_weights(files[option])), shapes(plan), files[option])


def transformer(weights: parts.Weights, file: Path) -> parts.Weights:
    """Return the transformer's weights in diffusers' names, from either naming. Raises ModelUnreadable."""
    weights = parts.below(weights, "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
    if "img_in.weight" not in weights:
        return weights
    try:
        converted: parts.Weights = convert_flux2_transformer_checkpoint_to_diffusers(dict(weights))
    except (LookupError, ValueError, RuntimeError) as error:
        raise ModelUnreadable(f"{file.name} is not a transformer of this family: it has {error}") from error
    return parts.without_views(converted)


def autoencoder(weights: parts.Weights, plan: parts.Configs, file: Path) -> parts.Weights:
    """Return the autoencoder's weights and statistics in diffusers' names. Raises ModelUnreadable.

    The number of batches that the statistics are from is dropped: it is only used in training.
    """
    weights = parts.below(weights, "first_stage_model.", "vae.")
    statistics = {name: weights.pop(name) for name in _STATISTICS if name in weights}
    weights.pop("bn.num_batches_tracked", None)
    for theirs, own in _INSIDE.items():
        weights = {
            f"{own}{name.removeprefix(theirs)}" if name.startswith(theirs) else name: tensor
            for name, tensor in weights.items()
        }
    return shared_parts.autoencoder(weights, plan, file) | statistics


def transformer_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: Flux2Transformer2DModel.from_config(plan["transformer/config.json"]))


def autoencoder_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    shapes = parts.shapes_of(lambda: AutoencoderKLFlux2.from_config(plan["vae/config.json"]))
    config = plan["vae/config.json"]
    channels = config["latent_channels"] * config["patch_size"][0] * config["patch_size"][1]
    return shapes | dict.fromkeys(_STATISTICS, torch.Size([channels]))
