"""ControlNets of FLUX.1: hidden states of the picture's tokens, block by block.

Facts follow diffusers: pipelines/flux/pipeline_flux_controlnet.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from diffusers import FluxControlNetModel

from worker.ml.errors import NotFinite
from worker.ml.guides.controlnet import Control, ControlNet
from worker.ml.models import Base
from worker.ml.protocol import Grid, Inputs


class FluxControl(ControlNet):
    """A network for one kind, or for several with their numbers, or XLabs' (which reads pixels instead of latents).

    The numbers are from the model cards of InstantX/FLUX.1-dev-Controlnet-Union and
    Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro. Version 2.0 of the latter has no numbers, although it is for several.
    """

    diffusers_class = FluxControlNetModel
    denoiser = "FluxTransformer2DModel"
    same = (
        *("in_channels", "num_attention_heads", "attention_head_dim"),
        *("joint_attention_dim", "pooled_projection_dim", "axes_dims_rope"),
    )
    modes: ClassVar[Mapping[str, int]] = {"canny": 0, "depth": 2, "pose": 4}

    @property
    def mode_count(self) -> int | None:
        return cast("int | None", self.network.config.num_mode)

    def control_picture(self, base: Base, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return packed latents (1, N, C), of which the autoencoder draws a sample, or for XLabs pixels in -1..1."""
        vae, signal = base.parts.vae, 2 * pixels - 1
        if self._reads_pixels:
            return signal.to(base.device, self.network.dtype)
        base.place(base.family.autoencoder)
        latents = vae.encode(signal.to(base.device, vae.dtype)).latent_dist.sample(generator)
        if not latents.isfinite().all():
            fault = base.fault(base.family.autoencoder)
            raise NotFinite(f"{base.folder.name} gives numbers that are not finite for a control picture: {fault}")
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        packed: torch.Tensor = base.parts._pack_latents(latents, *latents.shape)
        return packed.to(self.network.dtype)

    def residuals(self, control: Control, inputs: Inputs) -> dict[str, Any]:
        """Return those of the wanted prompt, which the pipeline uses for the negative one too."""
        device = inputs.latents.device
        arguments = control.base.family.denoiser_arguments(control.base.parts, _wanted(inputs))
        # A base and a network may differ in whether they embed guidance.
        embeds = self.network.config.guidance_embeds
        arguments["guidance"] = torch.full((1,), inputs.guidance, device=device) if embeds else None
        double, single = self.network(
            **arguments,
            controlnet_cond=control.picture,
            controlnet_mode=None if control.mode is None else torch.tensor([[control.mode]], device=device),
            conditioning_scale=control.scale,
            return_dict=False,
        )
        return {
            "controlnet_block_samples": double,
            "controlnet_single_block_samples": single,
            "controlnet_blocks_repeat": self._reads_pixels,
        }

    @property
    def _reads_pixels(self) -> bool:
        return self.network.input_hint_block is not None

    def work_bytes(self, base: Base, grid: Grid) -> int:
        """Return the size of the residuals: a hidden state of the picture for each block of the network.

        It has three for each when it ends, which in a network of many blocks is more than the transformer needs.
        Measured at the published geometry, as the families' figures are.
        """
        config, family = self.network.config, base.family
        hidden_state = math.prod(grid) * base.denoiser.inner_dim * base.denoiser.dtype.itemsize
        residuals = int((config.num_layers + config.num_single_layers) * hidden_state)
        return max(residuals, 3 * residuals - family.working_bytes(base.parts, grid, 1)[family.denoiser])


def _wanted(inputs: Inputs) -> Inputs:
    """Return the row of the wanted prompt alone."""
    if "against" not in inputs.sides:
        return inputs
    rows = torch.tensor([side == "wanted" for side in inputs.sides], device=inputs.latents.device)
    return replace(
        inputs,
        latents=inputs.latents[rows],
        time=inputs.time[rows],
        condition=inputs.condition.take(rows),
        sides=("wanted",),
    )
