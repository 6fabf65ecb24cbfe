"""Train the base's autoencoder on crops of the drawings."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tools.small_base import drawings
from tools.small_base.drawings import HELD_OUT, WORK
from tools.small_base.muon import Muon
from tools.small_base.training import Average, Run, budget, psnr

CROP, BATCH = 64, 8
WHOLE = 0.15  # share of batches that are whole pictures, whose averages differ in the norms
FACES = 0.5  # share of crops at the faces
KL = 2e-4
LATENT_CHANNELS = 8


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT_CHANNELS,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
    )


class Pictures:
    """Random crops from the shards that have been drawn so far."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.rescan()

    def rescan(self) -> None:
        self._shards = [np.load(drawings.FOLDER / f"{number:03}.npy", mmap_mode="r") for number in drawings.drawn()]

    def batch(self) -> torch.Tensor:
        """Return (B, 3, H, W) in -1…1."""
        chance = self._chance
        whole = chance.random() < WHOLE
        shard = chance.choice(self._shards)
        crops = []
        for _ in range(BATCH // 4 if whole else BATCH):
            shard = shard if whole else chance.choice(self._shards)
            picture = shard[chance.randrange(len(shard))]
            if not whole:
                top, left = self._corner(picture.shape[0] - CROP, picture.shape[1] - CROP)
                picture = picture[top : top + CROP, left : left + CROP]
            crops.append(picture[:, ::-1] if chance.random() < 0.5 else picture)
        return pixels_in(np.stack(crops))

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Return the corner of a crop: half of the crops are in the middle, where faces are and details matter."""
        chance = self._chance
        if chance.random() < FACES:
            return round(height * chance.uniform(0.15, 0.7)), round(width * chance.uniform(0.2, 0.8))
        return chance.randrange(height + 1), chance.randrange(width + 1)


def pixels_in(pictures: np.ndarray) -> torch.Tensor:
    """Convert (B, H, W, 3) in 0…255 to (B, 3, H, W) in -1…1."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def loss_of(seen: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    error = seen - wanted
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 3 * error.square().mean() + 0.5 * edges


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL, sheet: bool = False) -> float:
    errors, rows = [], []
    for number in HELD_OUT:
        wanted = pixels_in(drawings.load(number).pixels[:8])
        seen = vae.decode(vae.encode(wanted).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(float((seen - wanted).square().mean()) / 4)
        rows.append(torch.cat([wanted[:8], seen[:8]]))
    if sheet:
        write_sheet(rows[0], WORK / "autoencoder" / "sheet.png")
    return psnr(sum(errors) / len(errors))


def write_sheet(pictures: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Write pictures (B, 3, H, W) in -1…1 side by side."""
    count, _, height, width = pictures.shape
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height))
    for index, picture in enumerate(levels):
        sheet.paste(Image.fromarray(picture), (index % columns * width, index // columns * height))
    sheet.save(path)


def main() -> None:
    run = Run(WORK / "autoencoder", budget(__doc__, minutes=15))
    torch.manual_seed(0)
    vae = new_autoencoder().to(memory_format=torch.channels_last)
    average = Average(vae, 0.99)
    matrices = [weight for weight in vae.parameters() if weight.ndim > 1]
    others = [weight for weight in vae.parameters() if weight.ndim == 1]
    optimizers = {"muon": (Muon(matrices, lr=5e-3), 5e-3), "adamw": (torch.optim.AdamW(others, lr=3e-3), 3e-3)}
    saved = run.resume()
    if saved:
        vae.load_state_dict(saved["vae"])
        average.weights = saved["average"]
        for name, (optimizer, _) in optimizers.items():
            optimizer.load_state_dict(saved[name])
    pictures = Pictures(run.step)
    losses = []

    def save() -> None:
        run.save(
            {"vae": vae.state_dict(), "average": average.weights}
            | {name: optimizer.state_dict() for name, (optimizer, _) in optimizers.items()}
        )

    smooth = new_autoencoder().eval()
    while not run.over:
        wanted = pictures.batch().contiguous(memory_format=torch.channels_last)
        # Half the time of float32 on CPUs with bfloat16 multiplication; the weights stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            code = vae.encode(wanted).latent_dist
            seen = vae.decode(code.sample()).sample
        loss = loss_of(seen.float(), wanted) + KL * code.kl().mean() / code.mean[0].numel()
        loss.backward()
        for optimizer, rate in optimizers.values():
            optimizer.param_groups[0]["lr"] = rate * run.rate()
            optimizer.step()
            optimizer.zero_grad()
        average.add(vae, run.step)
        run.step += 1
        losses.append(loss.item())
        if run.step % 100 == 0:
            figures = {"loss": sum(losses) / len(losses), "latent_std": float(code.mean.std())}
            losses.clear()
            if run.step % 1000 == 0:
                smooth.load_state_dict(average.weights)
                figures["psnr"] = held_out_psnr(smooth, sheet=True)
                pictures.rescan()
                save()
            run.log(**figures)
    save()
    smooth.load_state_dict(average.weights)
    run.log(psnr=held_out_psnr(smooth, sheet=True))


if __name__ == "__main__":
    main()
