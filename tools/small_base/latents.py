"""Encode the drawings once: `work/latents/`, one file per shard, with the mirror image of every drawing.

First, the weights of the trained autoencoder are changed so that its latents have mean 0 and deviation 1 in every
channel.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from tools.small_base import drawings
from tools.small_base.autoencoder import new_autoencoder, pixels_in
from tools.small_base.drawings import HELD_OUT, WORK
from tools.small_base.people import Shown

FOLDER = WORK / "latents"
STANDARD = WORK / "autoencoder" / "standard.pt"
BATCH = 10
MEASURED_ON = 500


@dataclass(frozen=True)
class Encoded:
    """Drawings as the transformer sees them: latents (N, tokens, 4 x channels), and what each shows."""

    latents: torch.Tensor
    shown: list[Shown]


def standard_autoencoder() -> AutoencoderKL:
    """Return the trained autoencoder, with latents of mean 0 and deviation 1."""
    vae = new_autoencoder().eval()
    vae.load_state_dict(torch.load(STANDARD, weights_only=True))
    return vae


@torch.no_grad()
def standardise(vae: AutoencoderKL) -> None:
    """Move the latents' mean and deviation, for each channel, into the weights on both sides of them.

    Beyond the edges, the decoder now sees zeros instead of the negated mean: `decoder` corrects that by training.
    """
    shards = [drawings.load(number).pixels for number in drawings.drawn()[:4]]
    pictures = [pixels_in(shard[: MEASURED_ON // len(shards)]) for shard in shards]
    latents = [vae.encode(part).latent_dist.mean for shard in pictures for part in shard.split(BATCH)]
    by_channel = torch.cat([part.transpose(0, 1).flatten(1) for part in latents], dim=1)
    mean, deviation = by_channel.mean(1), by_channel.std(1)
    channels = len(mean)
    print(f"latents had mean {mean.tolist()} and deviation {deviation.tolist()}")
    out, back = vae.encoder.conv_out, vae.decoder.conv_in
    out.bias[:channels] -= mean
    out.bias[:channels] /= deviation
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[channels:] -= 2 * deviation.log()
    back.bias += (back.weight * mean[:, None, None]).sum((1, 2, 3))
    back.weight *= deviation[:, None, None]


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Encode pictures (B, H, W, 3) in 0…255 to packed latents (B, tokens, 4 x channels)."""
    return packed(vae.encode(pixels_in(pictures)).latent_dist.mode())


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Pack (B, C, H, W) into (B, H/2 · W/2, 4C), as FLUX folds 2 x 2 latents into a token."""
    batch, channels, height, width = latents.shape
    folded = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return folded.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpacked(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Undo `packed`, for a grid of rows and columns of tokens."""
    batch, _, channels = tokens.shape
    unfolded = tokens.view(batch, *grid, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return unfolded.reshape(batch, channels // 4, 2 * grid[0], 2 * grid[1])


def encoded(numbers: Iterable[int]) -> Iterator[tuple[int, Encoded]]:
    """Yield the shards that have been encoded so far, with their numbers."""
    for number in numbers:
        path = FOLDER / f"{number:03}.pt"
        if path.exists():
            shown = drawings.load(number).shown
            mirrored = [each.mirrored() for each in shown]
            yield number, Encoded(torch.load(path, weights_only=True), shown + mirrored)


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not STANDARD.exists():
        vae = new_autoencoder().eval()
        vae.load_state_dict(torch.load(WORK / "autoencoder" / "checkpoint.pt", weights_only=True)["average"])
        standardise(vae)
        torch.save(vae.state_dict(), STANDARD)
    vae = standard_autoencoder()
    for number in [*drawings.drawn(HELD_OUT), *drawings.drawn()]:
        path = FOLDER / f"{number:03}.pt"
        if path.exists():
            continue
        pixels = drawings.load(number).pixels
        both = np.concatenate([pixels, pixels[:, :, ::-1]])
        latents = torch.cat([encode(vae, both[at : at + BATCH]) for at in range(0, len(both), BATCH)])
        unfinished = path.with_suffix(".part")
        torch.save(latents.half(), unfinished)
        unfinished.rename(path)
        print(f"shard {number} encoded", flush=True)


if __name__ == "__main__":
    main()
