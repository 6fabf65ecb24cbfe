"""Train the autoencoder's decoder further, on latents that no longer change. It can run beside `train`.

The decoder also learns to tolerate small errors in latents, as the transformer makes them.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from diffusers import AutoencoderKL

from tools.small_base import drawings, latents
from tools.small_base.autoencoder import loss_of, pixels_in, write_sheet
from tools.small_base.drawings import HELD_OUT, WORK
from tools.small_base.latents import standard_autoencoder, unpacked
from tools.small_base.muon import Muon
from tools.small_base.train import GRIDS
from tools.small_base.training import Average, Run, budget, psnr

FOLDER = WORK / "decoder"
BATCH, WINDOW = 12, 8  # crops per batch, and their side in latents
FACES = 0.6  # share of crops at the faces
WHOLE = 0.2  # share of batches of whole pictures
NOISE = 0.05  # deviation of the noise that is added to latents, whose own deviation is 1
MUON_RATE, ADAMW_RATE = 3e-3, 2e-3
CHECK_EVERY = 1000


class Pairs:
    """Latents and the pixels that they encode."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        numbers = [number for number in drawings.drawn() if (latents.FOLDER / f"{number:03}.pt").exists()]
        self._shards = [(np.load(drawings.FOLDER / f"{n:03}.npy", mmap_mode="r"), _latents(n)) for n in numbers]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents (B, C, h, w) and pixels (B, 3, 8h, 8w) in -1…1."""
        chance = self._chance
        if chance.random() < WHOLE:
            pixels, coded = chance.choice(self._shards)
            chosen = [chance.randrange(len(coded)) for _ in range(BATCH // 3)]
            return coded[chosen].float(), pixels_in(np.stack([_picture(pixels, index) for index in chosen]))
        windows = [self._window() for _ in range(BATCH)]
        return torch.stack([code for code, _ in windows]).float(), pixels_in(np.stack([part for _, part in windows]))

    def _window(self) -> tuple[torch.Tensor, np.ndarray]:
        chance = self._chance
        pixels, coded = chance.choice(self._shards)
        index = chance.randrange(len(coded))
        rows, columns = coded.shape[2] - WINDOW, coded.shape[3] - WINDOW
        if chance.random() < FACES:
            top, left = round(rows * chance.uniform(0.1, 0.7)), round(columns * chance.uniform(0.2, 0.8))
        else:
            top, left = chance.randrange(rows + 1), chance.randrange(columns + 1)
        part = _picture(pixels, index)[8 * top : 8 * (top + WINDOW), 8 * left : 8 * (left + WINDOW)]
        return coded[index, :, top : top + WINDOW, left : left + WINDOW], part


def _latents(number: int) -> torch.Tensor:
    tokens = torch.load(latents.FOLDER / f"{number:03}.pt", weights_only=True)
    return unpacked(tokens, GRIDS[tokens.shape[1]])


def _picture(pixels: np.ndarray, index: int) -> np.ndarray:
    """Return the drawing, or its mirror image for an index in the second half."""
    return pixels[index] if index < len(pixels) else pixels[index - len(pixels), :, ::-1]


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL) -> float:
    errors, rows = [], []
    for number in HELD_OUT:
        wanted, coded = pixels_in(drawings.load(number).pixels[:16]), _latents(number)[:16].float()
        seen = vae.decode(coded).sample.clamp(-1, 1)
        errors.append(float((seen - wanted).square().mean()) / 4)
        rows.append(torch.cat([wanted[:8], seen[:8]]))
    write_sheet(rows[0], FOLDER / "sheet.png")
    return psnr(sum(errors) / len(errors))


def trained_autoencoder() -> AutoencoderKL:
    """Return the autoencoder with the newest decoder."""
    vae = standard_autoencoder()
    if (FOLDER / "checkpoint.pt").exists():
        vae.decoder.load_state_dict(torch.load(FOLDER / "checkpoint.pt", weights_only=True)["average"])
    return vae


def main() -> None:
    run = Run(FOLDER, budget(__doc__, minutes=40))
    vae, smooth = standard_autoencoder(), standard_autoencoder()
    decoder = vae.decoder
    average = Average(decoder, 0.998)
    muon = Muon([weight for weight in decoder.parameters() if weight.ndim > 1], lr=MUON_RATE)
    adamw = torch.optim.AdamW([weight for weight in decoder.parameters() if weight.ndim == 1], lr=ADAMW_RATE)
    saved = run.resume()
    if saved:
        decoder.load_state_dict(saved["decoder"])
        average.weights = saved["average"]
        muon.load_state_dict(saved["muon"])
        adamw.load_state_dict(saved["adamw"])
    pairs, losses = Pairs(run.step), []

    def save() -> None:
        state = {"decoder": decoder.state_dict(), "average": average.weights}
        run.save(state | {"muon": muon.state_dict(), "adamw": adamw.state_dict()})

    while not run.over:
        coded, wanted = pairs.batch()
        with torch.autocast("cpu", torch.bfloat16):
            seen = vae.decode(coded + NOISE * torch.randn_like(coded)).sample
        loss = loss_of(seen.float(), wanted)
        loss.backward()
        for optimizer, rate in ((muon, MUON_RATE), (adamw, ADAMW_RATE)):
            optimizer.param_groups[0]["lr"] = rate * run.rate()
            optimizer.step()
            optimizer.zero_grad()
        average.add(decoder, run.step)
        run.step += 1
        losses.append(loss.item())
        if run.step % 100 == 0:
            figures = {"loss": sum(losses) / len(losses)}
            losses.clear()
            if run.step % CHECK_EVERY == 0:
                smooth.decoder.load_state_dict(average.weights)
                figures["psnr"] = held_out_psnr(smooth)
                save()
            run.log(**figures)
    save()
    smooth.decoder.load_state_dict(average.weights)
    run.log(psnr=held_out_psnr(smooth))


if __name__ == "__main__":
    main()
