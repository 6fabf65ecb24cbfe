"""Real-ESRGAN at its official size with random weights, in tiles and whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tools.gpu_check.bench import Bench
from tools.gpu_check.measure import Watermark, drained, timed
from tools.gpu_check.runner import Figures, expect
from worker.demo.drawing import portrait
from worker.ml import kernels
from worker.ml.networks import real_esrgan
from worker.ml.networks.upscaler import TILE

SIDE_PX, TINY_SIDE_PX = 1024, 96
TINY_TILE = 48
BLOCKS, FILTERS, GROWTH = 23, 64, 32
MAX_SEAM = 8
"""Of 255: how far a tile's border may be from the same pixels of the whole picture."""


def upscale(bench: Bench, scale: int) -> Figures:
    """Enlarge a drawn picture in the default tiles, and as one."""
    weights = bench.folder / f"upscaler-x{scale}.safetensors"
    write_weights(weights, scale, blocks=bench.size(BLOCKS, 1), filters=bench.size(FILTERS, 16))
    upscaler = real_esrgan.load(weights, device=bench.device.type)
    side = bench.size(SIDE_PX, TINY_SIDE_PX)
    (scene,) = portrait.scenes(1, seed=3)
    pixels = np.asarray(portrait.draw(portrait.Person.example(), scene, (side, side)))
    tile = bench.size(TILE, TINY_TILE)

    drained(upscaler.upscale(pixels[:tile, :tile]))  # warms up
    in_tiles = Watermark.start(bench.device)
    tiled, tiled_s = timed(bench.device, lambda: drained(upscaler.upscale(pixels, tile=tile)))
    figures: Figures = {"tiled_seconds": round(tiled_s, 3), "tiled_peak_gib": in_tiles.figures(0)["peak_allocated_gib"]}
    as_one = Watermark.start(bench.device)
    whole, whole_s = timed(bench.device, lambda: drained(upscaler.upscale(pixels, tile=side)))
    figures |= {"whole_seconds": round(whole_s, 3), "whole_peak_gib": as_one.figures(0)["peak_allocated_gib"]}
    difference = np.abs(tiled.astype(int) - whole)
    figures |= {"seam_difference_max": int(difference.max()), "seam_difference_mean": float(difference.mean())}
    expect(tiled.shape == (side * scale, side * scale, 3), f"the picture is {tiled.shape}", figures)
    expect(len(np.unique(whole)) > 100, "the picture is blank, as one of numbers that are not finite", figures)
    expect(figures["seam_difference_max"] <= MAX_SEAM, "tiles leave seams", figures)
    return figures


def write_weights(path: Path, scale: int, blocks: int, filters: int) -> None:
    """Write random weights in the official names and shapes; 23 blocks and 64 filters are the official size.

    Three channels carry the picture through, so that what comes out stays in a picture's range.
    """
    generator = torch.Generator("cpu").manual_seed(scale)
    colours = 12 if scale == 2 else 3  # x2 folds 2x2 pixels into channels first
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, carried: torch.Tensor | None = None) -> None:
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.005
        weight -= weight.mean((2, 3), keepdim=True)  # texture without a tint
        if carried is not None:
            weight[: len(carried), : carried.shape[1]] += carried
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, torch.zeros(outputs)

    conv("conv_first", colours, filters, kernels.each(colours, kernels.SAME))
    for block in range(blocks):
        for part in (1, 2, 3):
            for layer in (1, 2, 3, 4, 5):
                outputs = GROWTH if layer < 5 else filters
                conv(f"body.{block}.rdb{part}.conv{layer}", filters + (layer - 1) * GROWTH, outputs)
    conv("conv_body", filters, filters)
    conv("conv_up1", filters, filters, kernels.unfold() if scale == 2 else kernels.each(3, kernels.BETWEEN))
    conv("conv_up2", filters, filters, kernels.each(3, kernels.BETWEEN))
    conv("conv_hr", filters, filters, kernels.each(3, kernels.SAME))
    conv("conv_last", filters, 3, kernels.each(3, kernels.SAME))
    save_file(state, path)
