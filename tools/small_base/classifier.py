"""A small network that recognises what a picture shows: hair, skin, glasses, clothes, place.

It is trained on drawings, also on degraded ones, so that it recognises what the base draws.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from tools.small_base import drawings, latents
from tools.small_base.autoencoder import pixels_in
from tools.small_base.decoder import trained_autoencoder
from tools.small_base.drawings import HELD_OUT, WORK
from tools.small_base.latents import unpacked
from tools.small_base.people import FRAME_WORDS, HAIR_WORDS, SKIN_WORDS, Shown
from tools.small_base.training import Average, Run, budget
from worker.demo.drawing.person import CLOTHES_COLOURS, Beard, Clothes, Expression, Glasses, HairStyle, Setting

FOLDER = WORK / "classifier"
SHIPPED = Path(__file__).parent / "classifier.safetensors"
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "noun": ("man", "woman"),
    "skin": tuple(SKIN_WORDS),
    "hair": tuple(HAIR_WORDS),
    "style": get_args(HairStyle),
    "glasses": ("none", *get_args(Glasses)),
    "frame": tuple(FRAME_WORDS),
    "beard": ("none", *get_args(Beard)),
    "clothes": get_args(Clothes),
    "colour": tuple(CLOTHES_COLOURS),
    "setting": get_args(Setting),
    "expression": get_args(Expression),
}
NOT_THERE = -100  # the label where an attribute does not apply: frames without glasses, hair on a bald head
BATCH = 48
RATE = 2e-3
DECODED_EVERY = 4  # one of this many shards is also used as the autoencoder decodes it


def labels(shown: Shown) -> list[int]:
    """Return, for each of ATTRIBUTES, the index of the value that the drawing shows."""
    found = []
    for name, values in ATTRIBUTES.items():
        value = getattr(shown, name) or "none"
        hidden = (name == "frame" and not shown.glasses) or (name == "hair" and shown.style == "bald")
        found.append(NOT_THERE if hidden else values.index(value))
    return found


class Classifier(nn.Module):
    """Maps pictures (B, 3, H, W) in -1…1 to scores (B, values) for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 80, 112)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers, nn.Conv2d(112, 112, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.heads = nn.Linear(16 * 112, sum(map(len, ATTRIBUTES.values())))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = self.heads(functional.dropout(self.features(pictures).flatten(1), 0.2, self.training))
        return scores.split([len(values) for values in ATTRIBUTES.values()], dim=1)


class Pictures:
    """Batches of degraded drawings."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._shards = []
        for number in drawings.drawn():
            shard = drawings.load(number)
            known = torch.tensor([labels(shown) for shown in shard.shown])
            self._shards.append((shard.pixels, known))
            if number % DECODED_EVERY == number // DECODED_EVERY % DECODED_EVERY:
                self._shards.append((_decoded(number), known))

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        chance = self._chance
        pixels, known = chance.choice(self._shards)
        chosen = np.array([chance.randrange(len(pixels)) for _ in range(BATCH)])
        pictures = pixels_in(pixels[chosen])
        return _degraded(pictures.flip(3) if chance.random() < 0.5 else pictures, chance), known[chosen]


def _decoded(number: int) -> np.ndarray:
    """Return a shard's drawings as the autoencoder decodes them, from latents with a little noise."""
    path = FOLDER / f"decoded-{number:03}.npy"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        vae = trained_autoencoder()
        tokens = torch.load(latents.FOLDER / f"{number:03}.pt", weights_only=True)[: drawings.SHARD].float()
        width, height = drawings.size_of(number)
        coded = unpacked(tokens, (height // 16, width // 16))
        coded += 0.15 * torch.randn(coded.shape, generator=torch.Generator().manual_seed(number))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen = torch.cat([vae.decode(part).sample.float() for part in coded.split(10)])
        np.save(path, ((seen.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.load(path)


def _degraded(pictures: torch.Tensor, chance: random.Random) -> torch.Tensor:
    """Shift, blur and recolour pictures a little, and add noise."""
    count, _, height, width = pictures.shape
    zoom, turn = chance.uniform(0.88, 1.12), chance.uniform(-0.06, 0.06)
    rows = torch.tensor([[zoom, turn, chance.uniform(-0.08, 0.08)], [-turn, zoom, chance.uniform(-0.08, 0.08)]])
    grid = functional.affine_grid(rows.expand(count, 2, 3), [count, 3, height, width], align_corners=False)
    pictures = functional.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    if chance.random() < 0.5:
        small = functional.interpolate(pictures, scale_factor=chance.uniform(0.45, 0.9), mode="area")
        pictures = functional.interpolate(small, size=(height, width), mode="bilinear")
    gain = 1 + 0.06 * torch.randn(count, 3, 1, 1) + 0.08 * torch.randn(count, 1, 1, 1)
    noise = chance.choice((0.0, 0.03, 0.1)) * torch.randn_like(pictures)
    return ((pictures + 1) * gain - 1 + noise).clamp(-1, 1)


class Reading:
    """The trained classifier, as it ships."""

    def __init__(self) -> None:
        self._network = Classifier().eval()
        self._network.load_state_dict({name: weight.float() for name, weight in load_file(SHIPPED).items()})

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[dict[str, str]]:
        """Return what each picture (H, W, 3) in 0…255 shows: a value for every attribute, applicable or not."""
        found = []
        for picture in pictures:
            scores = self._network(pixels_in(picture[None]))
            best = [int(row.argmax()) for row in scores]
            found.append({name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), best, strict=True)})
        return found


@torch.no_grad()
def accuracy(network: Classifier, pictures: Mapping[int, torch.Tensor]) -> dict[str, float]:
    """Return the share that is recognised correctly, by attribute."""
    right, asked = np.zeros(len(ATTRIBUTES)), np.zeros(len(ATTRIBUTES))
    for number, seen in pictures.items():
        known = torch.tensor([labels(shown) for shown in drawings.load(number).shown])
        for index, scores in enumerate(network(seen)):
            there = known[:, index] != NOT_THERE
            right[index] += float((scores.argmax(1) == known[:, index])[there].sum())
            asked[index] += float(there.sum())
    return dict(zip(ATTRIBUTES, right / asked, strict=True))


def main() -> None:
    run = Run(FOLDER, budget(__doc__, minutes=12))
    torch.manual_seed(0)
    network, smooth = Classifier().to(memory_format=torch.channels_last), Classifier().eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    average = Average(network, 0.995)
    saved = run.resume()
    if saved:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        average.weights = saved["average"]
    pictures = Pictures(run.step)
    plain = {number: pixels_in(drawings.load(number).pixels) for number in HELD_OUT}
    through = {number: pixels_in(_decoded(number)) for number in HELD_OUT}
    losses: list[float] = []

    def save() -> None:
        run.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights})
        smooth.load_state_dict(average.weights)
        save_file({name: _half(weight) for name, weight in smooth.state_dict().items()}, SHIPPED)
        run.log(**accuracy(smooth, plain))
        run.log(**{f"decoded_{name}": value for name, value in accuracy(smooth, through).items()})

    while not run.over:
        seen, known = pictures.batch()
        scores = network(seen.contiguous(memory_format=torch.channels_last))
        parts = [
            functional.cross_entropy(row, known[:, i], ignore_index=NOT_THERE, label_smoothing=0.02)
            for i, row in enumerate(scores)
        ]
        loss = torch.stack([part for part in parts if part.isfinite()]).sum()
        optimizer.param_groups[0]["lr"] = RATE * run.rate()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.add(network, run.step)
        run.step += 1
        losses.append(loss.item())
        if run.step % 100 == 0:
            run.log(loss=sum(losses) / len(losses))
            losses.clear()
        if run.step % 1000 == 0:
            save()
    save()


def _half(weight: torch.Tensor) -> torch.Tensor:
    return weight.half().contiguous() if weight.is_floating_point() else weight


if __name__ == "__main__":
    main()
