"""Train Real-ESRGAN's network, with one block in place of 23, to enlarge the base's pictures two and four times."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN
from torch.nn import functional

from tools.small_base.drawings import PORTRAIT, WORK
from tools.small_base.muon import Muon
from tools.small_base.people import random_subject
from tools.small_base.training import Average, Run, psnr
from worker.demo.drawing.portrait import draw
from worker.ml.networks.tiny import build_tiny

FOLDER = WORK / "upscalers"
PICTURES, HELD_OUT = 400, 16
CROP, BATCH = 128, 6  # pixels of the enlarged picture
MUON_RATE, ADAMW_RATE = 1e-3, 1e-3


def new_network(scale: int) -> ESRGAN:
    """Return the tests' network, set by hand to interpolate, so that training starts at about bicubic quality."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interpolating.safetensors"
        build_tiny(path, scale)
        network = ModelLoader("cpu").load_from_file(path).model
    assert isinstance(network, ESRGAN)
    return network.train().requires_grad_(True)


def large_drawings() -> np.ndarray:
    """Return drawings four times as large as the base's: (N, H, W, 3) in 0…255."""
    path = FOLDER / "drawings.npy"
    if not path.exists():
        chance = random.Random("upscalers")
        size = (4 * PORTRAIT[0], 4 * PORTRAIT[1])
        people = [random_subject(chance)[:2] for _ in range(PICTURES)]
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([np.asarray(draw(person, scene, size)) for person, scene in people]))
    return np.load(path, mmap_mode="r")


class Pairs:
    """Crops, and the same crops scaled down and degraded as by an autoencoder."""

    def __init__(self, scale: int, seed: int) -> None:
        self._scale, self._chance = scale, random.Random(seed)
        self._pictures = large_drawings()[HELD_OUT:]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return small (B, 3, h, w) and large (B, 3, H, W) pictures, both in 0…1."""
        crops = [self._crop() for _ in range(BATCH)]
        return _signal([small for small, _ in crops]), _signal([large for _, large in crops])

    def _crop(self) -> tuple[Image.Image, Image.Image]:
        chance = self._chance
        picture = Image.fromarray(self._pictures[chance.randrange(len(self._pictures))])
        if self._scale == 2 and chance.random() < 0.7:  # else a closer detail
            picture = picture.reduce(2)
        left, top = (chance.randrange(side - CROP + 1) for side in picture.size)
        large = picture.crop((left, top, left + CROP, top + CROP))
        if chance.random() < 0.5:
            large = large.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        small = large.reduce(self._scale)
        if chance.random() < 0.5:
            small = small.filter(ImageFilter.GaussianBlur(chance.uniform(0.2, 0.8)))
        return small, large


def _signal(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def held_out_psnr(network: ESRGAN, scale: int) -> dict[str, float]:
    """Return the PSNR of the network, and of bicubic interpolation for comparison."""
    errors: dict[str, list[float]] = {"psnr": [], "bicubic": []}
    for pixels in large_drawings()[:HELD_OUT]:
        large = Image.fromarray(pixels).reduce(4 // scale)
        small = large.reduce(scale)
        wanted, seen = _signal([large]), network(_signal([small])).clamp(0, 1)
        plain = _signal([small.resize(large.size, Image.Resampling.BICUBIC)])
        errors["psnr"].append(float((seen - wanted).square().mean()))
        errors["bicubic"].append(float((plain - wanted).square().mean()))
    return {name: psnr(float(np.mean(found))) for name, found in errors.items()}


def trained(scale: int) -> bool:
    return (FOLDER / f"x{scale}" / "checkpoint.pt").exists()


def write(scale: int, path: Path) -> None:
    """Write the trained network with the official names of layers, in float16."""
    average = torch.load(FOLDER / f"x{scale}" / "checkpoint.pt", weights_only=True)["average"]
    save_file({_official(name): weight.half().contiguous() for name, weight in average.items()}, path)


def _official(name: str) -> str:
    """Convert spandrel's name of a layer to that in Real-ESRGAN's files."""
    parts = name.split(".")
    if parts[1] == "1" and parts[4].startswith("RDB"):
        return f"body.{parts[3]}.{parts[4].lower()}.{parts[5]}.{parts[-1]}"
    if parts[1] == "1":
        return f"conv_body.{parts[-1]}"
    layers = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
    return f"{layers[parts[1]]}.{parts[-1]}"


def train(scale: int, minutes: float) -> None:
    run = Run(FOLDER / f"x{scale}", minutes)
    torch.manual_seed(0)
    network, smooth = new_network(scale), new_network(scale)
    average = Average(network, 0.995)
    muon = Muon([weight for weight in network.parameters() if weight.ndim > 1], lr=MUON_RATE)
    adamw = torch.optim.AdamW([weight for weight in network.parameters() if weight.ndim == 1], lr=ADAMW_RATE)
    saved = run.resume()
    if saved:
        network.load_state_dict(saved["network"])
        average.weights = saved["average"]
        muon.load_state_dict(saved["muon"])
        adamw.load_state_dict(saved["adamw"])
    pairs, losses = Pairs(scale, run.step), []

    def save() -> None:
        state = {"network": network.state_dict(), "average": average.weights}
        run.save(state | {"muon": muon.state_dict(), "adamw": adamw.state_dict()})
        smooth.load_state_dict(average.weights)
        run.log(**held_out_psnr(smooth, scale))

    while not run.over:
        small, large = pairs.batch()
        seen = network(small)
        loss = functional.l1_loss(seen, large) + functional.mse_loss(seen, large)
        loss.backward()
        for optimizer, rate in ((muon, MUON_RATE), (adamw, ADAMW_RATE)):
            optimizer.param_groups[0]["lr"] = rate * run.rate()
            optimizer.step()
            optimizer.zero_grad()
        average.add(network, run.step)
        run.step += 1
        losses.append(loss.item())
        if run.step % 100 == 0:
            run.log(loss=sum(losses) / len(losses))
            losses.clear()
        if run.step % 500 == 0:
            save()
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", type=int, choices=(2, 4))
    parser.add_argument(
        "--minutes", type=float, default=8, help="total minutes of training, including earlier sessions"
    )
    arguments = parser.parse_args()
    train(arguments.scale, arguments.minutes)


if __name__ == "__main__":
    main()
