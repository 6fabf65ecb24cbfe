"""FLUX.1 from four files: the transformer, the autoencoder, and its text encoders CLIP and T5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

from worker.ml.errors import ModelUnreadable
from worker.ml.families.single_files import flux1_names, kinds
from worker.ml.single_files import parts, shared_parts

DEV = (Path(__file__).parent / "flux-dev.json",)
SCHNELL = (*DEV, Path(__file__).parent / "flux-schnell.json")
"""Where it differs from dev."""


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import `transformer`, `vae`, `clip` and `t5`. Only dev has a guidance embedding, schnell has not.

    Raises ModelUnreadable, naming the file, for one of the wrong kind.
    """
    say(f"reading {files['transformer'].name}")
    transformer = parts.read_weights(files["transformer"])
    kinds.check(files["transformer"], "transformer", transformer, kinds.FLUX)
    transformer = parts.below(transformer, "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
    guided = any("guidance" in name for name in transformer)
    plan = parts.read_configs(DEV if guided else SCHNELL, configs)
    parts.write_configs(target, plan)
    if "img_in.weight" in transformer:
        try:
            transformer = flux1_names.to_diffusers(transformer)
        except KeyError as error:
            raise ModelUnreadable(
                f"{files['transformer'].name} is not a transformer of this family: it has {error}"
            ) from error
    parts.write_part(target, "transformer", transformer, transformer_shapes(plan), files["transformer"])
    del transformer
    for option, part, convert, shapes in (
        (
            "vae",
            "vae",
            lambda weights: shared_parts.autoencoder(weights, plan, files["vae"]),
            shared_parts.autoencoder_shapes,
        ),
        ("clip", "text_encoder", shared_parts.clip, shared_parts.clip_shapes),
        ("t5", "text_encoder_2", shared_parts.t5, shared_parts.t5_shapes),
    ):
        say(f"reading {files[option].name}")
        parts.write_part(target, part, convert(parts.read_weights(files[option])), shapes(plan), files[option])


def transformer_shapes(plan: parts.Configs) -> dict[str, torch.Size]:
    return parts.shapes_of(lambda: FluxTransformer2DModel.from_config(plan["transformer/config.json"]))
