"""ControlNets of U-Nets: each level's hidden states on the way down, and those of the middle.

Facts follow diffusers: pipelines/controlnet/pipeline_controlnet.py, pipeline_controlnet_sd_xl.py and, for a network of
several kinds, pipeline_controlnet_union_sd_xl.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import ControlNetModel, ControlNetUnionModel

from worker.ml.guides.controlnet import Control, ControlNet
from worker.ml.models import Base
from worker.ml.protocol import Grid, Inputs


class UNetControl(ControlNet):
    """A network for pictures of one kind."""

    diffusers_class = ControlNetModel
    denoiser = "UNet2DConditionModel"
    # Small variants have fewer transformers, or none, and are as wide.
    same = (
        *("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"),
        *("addition_embed_type", "projection_class_embeddings_input_dim"),
    )

    def control_picture(self, base: Base, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the picture itself: (1, 3, H, W) in 0..1."""
        return pixels.to(base.device, self.network.dtype)

    def residuals(self, control: Control, inputs: Inputs) -> dict[str, Any]:
        down, middle = self.network(
            **control.base.family.denoiser_arguments(control.base.parts, inputs),
            **self._control_arguments(control, len(inputs.latents)),
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def _control_arguments(self, control: Control, rows: int) -> dict[str, Any]:
        return {"controlnet_cond": control.picture.repeat(rows, 1, 1, 1), "conditioning_scale": control.scale}

    def work_bytes(self, base: Base, grid: Grid) -> int:
        """Return 1.4 times the residuals for two rows, with which the U-Net makes their sums; the network needs less.

        Measured at the published geometry, as the families' figures are.
        """
        config = base.denoiser.config
        channels, layers = config.block_out_channels, config.layers_per_block
        last = len(channels) - 1
        sizes = [math.ceil(grid[0] / 2**level) * math.ceil(grid[1] / 2**level) for level in range(len(channels))]
        numbers = channels[0] * sizes[0] + channels[last] * sizes[last]
        for level, width in enumerate(channels):
            numbers += width * (layers * sizes[level] + (sizes[level + 1] if level < last else 0))
        return int(1.4 * 2 * numbers * base.denoiser.dtype.itemsize)


class UnionControl(UNetControl):
    """A network for pictures of several kinds: xinsir's for SDXL.

    The numbers are from github.com/xinsir6/ControlNetPlus (controlnet_union_test_*.py).
    """

    diffusers_class = ControlNetUnionModel
    modes: ClassVar[Mapping[str, int]] = {"pose": 0, "depth": 1, "canny": 3}

    @property
    def mode_count(self) -> int:
        return int(self.network.config.num_control_type)

    def _control_arguments(self, control: Control, rows: int) -> dict[str, Any]:
        wanted = torch.zeros(rows, self.mode_count, dtype=self.network.dtype, device=control.picture.device)
        wanted[:, control.mode] = 1
        return {
            "controlnet_cond": [control.picture.repeat(rows, 1, 1, 1)],
            "control_type": wanted,
            "control_type_idx": [control.mode],
            "conditioning_scale": [control.scale],
        }
