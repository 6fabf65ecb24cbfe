"""The process that measures held-out losses: `python -m worker.demo.held_out_loss` answers a `Question` on its standard
input with a JSON object of losses. `held_out.py` starts it, so that the demo itself needs no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from worker.demo.held_out import DRAWS, Question
from worker.ml import models
from worker.ml.adapters import attach
from worker.ml.families.lora import load_fitting
from worker.ml.models import Base
from worker.ml.train.batches import Photo, encode_captions, encode_photos
from worker.ml.train.loss import batches_at_fixed_noise, sample_losses


@torch.no_grad()
def held_out_loss(
    base: Base,
    photos: Sequence[Photo],
    lora: Path | None,
    *,
    seed: int = 0,
    draws: int = 8,
    resolution: int = 512,
) -> float:
    """Return the mean loss on photos that the LoRA has not seen, at fixed noise.

    Each photo is measured at `draws` evenly spaced times. The LoRA is loaded from its file as for drawing.
    Raises BadInput (a photo) and ModelUnreadable (the LoRA).
    """
    samples, unusable = encode_photos(base, photos, resolution)
    if unusable:
        raise unusable[0]
    texts = encode_captions(base, [photo.caption for photo in photos])
    base.place(base.family.denoiser, alone=True)
    loras = [(load_fitting(lora, base.family.name, base.denoiser), 1.0)] if lora else []
    with attach.attached(base.denoiser, loras):
        batches = batches_at_fixed_noise(base, samples, texts, draws, "held out", seed)
        losses = [float(sample_losses(base, batch).mean()) for batch in batches]
    return sum(losses) / len(losses)


def main() -> None:
    question: Question = json.load(sys.stdin)
    base = models.load(Path(question["base"]), "cpu")
    photos = [Photo(Path(path), caption) for path, caption in question["photos"]]
    losses = {
        label: held_out_loss(base, photos, Path(path) if path else None, draws=DRAWS, resolution=question["resolution"])
        for label, path in question["loras"].items()
    }
    sys.stdout.write(json.dumps(losses) + "\n")


if __name__ == "__main__":
    main()
