"""ControlNets of Z-Image: hidden states for some of its blocks, made with the transformer's own embedders and refiners.

Facts follow diffusers: pipelines/z_image/pipeline_z_image_controlnet.py and, for files as they are published,
loaders/single_file_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import ZImageControlNetModel

from worker.ml.errors import NotFinite
from worker.ml.families.z_image import HIDDEN_STATES
from worker.ml.guides.controlnet import Control, ControlNet
from worker.ml.models import Base
from worker.ml.protocol import Grid, Inputs

BORROWED = (
    *("t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder"),
    *("noise_refiner", "context_refiner", "x_pad_token", "cap_pad_token"),
)
"""What the network has of the transformer, as `ZImageControlNetModel.from_transformer` lends it."""
EMBEDDER = "control_all_x_embedder.2-1.weight"
FIRST_REFINER = "control_noise_refiner.0.before_proj.weight"
Weights = Mapping[str, torch.Tensor]


class ZImageControl(ControlNet):
    """A network for several kinds, which it tells apart by the picture: alibaba-pai's, of each of its versions."""

    diffusers_class = ZImageControlNetModel
    denoiser = "ZImageTransformer2DModel"
    same = ("dim", "n_heads", "n_kv_heads", "n_refiner_layers", "qk_norm", "all_patch_size", "all_f_patch_size")
    known_by: ClassVar[str | None] = EMBEDDER

    @classmethod
    def read_published(cls, weights: Weights, base: Base) -> tuple[dict[str, Any], Weights]:
        """Return the configuration and weights of a published file, whose geometry is read off its tensors.

        The blocks that it adds to are evenly spaced. Version 1 reads 16 channels and has plain refiners. Version 2.1
        reads 33, of which the last are for inpainting, and its refiners are control blocks; 2.0 has some that it was
        not trained with, and uses its other blocks in their place.
        """
        (dim, patch), head = weights[EMBEDDER].shape, len(weights["control_layers.0.attention.norm_q.weight"])
        config, trained = base.denoiser.config, FIRST_REFINER in weights and bool(weights[FIRST_REFINER].any())
        blocks = _count("control_layers", weights)
        refiners = _count("control_noise_refiner", weights) or config.get("n_refiner_layers")
        channels = patch // 4  # of 2 x 2 latents
        kind = None if channels == config.get("in_channels") else "control_layers"
        if trained:
            kind = "control_noise_refiner"
        if kind == "control_layers":
            weights = {name: one for name, one in weights.items() if not name.startswith("control_noise_refiner.")}
        step = max(1, config.get("n_layers", blocks) // blocks)
        return {
            "control_layers_places": [step * block for block in range(blocks)],
            "control_refiner_layers_places": [*range(refiners)],
            "control_in_dim": channels,
            "add_control_noise_refiner": kind,
            "dim": dim,
            "n_heads": dim // head,
            "n_kv_heads": dim // head,
            "n_refiner_layers": refiners,
        }, weights

    def misfit(self, base: Base) -> str | None:
        config, transformer = self.network.config, base.denoiser.config
        if max(config.control_layers_places) >= transformer.n_layers:
            last = max(config.control_layers_places)
            return f"it adds to block {last}, and the base has {transformer.n_layers}"
        if config.control_in_dim < transformer.in_channels:
            return f"it reads {config.control_in_dim} channels of a picture, and the base has {transformer.in_channels}"
        return super().misfit(base)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        """Place own weights, and borrow the transformer's modules, with LoRAs that are attached to them."""
        with super().attach(base):
            try:
                self.diffusers_class.from_transformer(self.network, base.denoiser)
                yield
            finally:
                for name in BORROWED:
                    setattr(self.network, name, None)

    def control_picture(self, base: Base, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return latents (1, C, 1, h, w), the autoencoder's mode; channels for inpainting are 0."""
        vae = base.parts.vae
        base.place(base.family.autoencoder)
        latents = vae.encode((2 * pixels - 1).to(base.device, vae.dtype)).latent_dist.mode()
        if not latents.isfinite().all():
            fault = base.fault(base.family.autoencoder)
            raise NotFinite(f"{base.folder.name} gives numbers that are not finite for a control picture: {fault}")
        latents = ((latents - vae.config.shift_factor) * vae.config.scaling_factor).unsqueeze(2)
        more = self.network.config.control_in_dim - latents.shape[1]
        empty = latents.new_zeros(1, more, *latents.shape[2:])
        return torch.cat([latents, empty], dim=1).to(self.network.dtype)

    def residuals(self, control: Control, inputs: Inputs) -> dict[str, Any]:
        rows = len(inputs.latents)
        hints = self.network(
            **control.base.family.denoiser_arguments(control.base.parts, inputs),
            control_context=[*control.picture.repeat(rows, 1, 1, 1, 1)],
            conditioning_scale=control.scale,
        )
        return {"controlnet_block_samples": hints}

    def work_bytes(self, base: Base, grid: Grid) -> int:
        """Return the residuals for two rows: a hidden state of text and picture for each block of the network.

        While it runs it keeps those of all blocks twice, or three times where they replace the refiners too: of many
        blocks, that is more than the transformer needs. Measured at the published geometry, as the families' figures.
        """
        config, family = self.network.config, base.family
        blocks, twice = len(config.control_layers_places), config.add_control_noise_refiner == "control_layers"
        transformer = family.working_bytes(base.parts, grid, 2)[family.denoiser]
        hidden_state = transformer / HIDDEN_STATES
        running = 3 * blocks + 7 if twice else max(23, 2 * blocks + 10.5)
        return int(max(blocks * hidden_state, running * hidden_state - transformer))


def _count(blocks: str, weights: Weights) -> int:
    """Return how many blocks of this name there are."""
    numbers = [int(found[1]) for name in weights if (found := re.match(rf"{blocks}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1
