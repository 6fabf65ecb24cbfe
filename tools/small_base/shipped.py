"""Copy the shipped weights to the work folder, so that `train` continues from them instead of from the beginning."""

from __future__ import annotations

import shutil

import torch
from diffusers import FluxPipeline

from tools.small_base import latents, train
from tools.small_base.model import Base, Reader
from tools.small_base.text import CLIP_TOKENIZER
from worker.demo.config import SMALL_BASE


def main() -> None:
    for path in (latents.STANDARD, train.FOLDER / "checkpoint.pt"):
        if path.exists():
            raise SystemExit(f"{path} exists: continue from that, or move it away first")
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SMALL_BASE / "base" / "tokenizer", CLIP_TOKENIZER, dirs_exist_ok=True)
    pipeline = FluxPipeline.from_pretrained(SMALL_BASE / "base", dtype=torch.float32, local_files_only=True)
    torch.save(pipeline.vae.state_dict(), latents.STANDARD)
    base = Base(Reader())
    for own, shipped in (
        (base.transformer, pipeline.transformer),
        (base.clip, pipeline.text_encoder),
        (base.t5, pipeline.text_encoder_2),
    ):
        own.load_state_dict(shipped.state_dict())
    weights = base.state_dict()
    torch.save({"base": weights, "average": weights, "step": 0, "spent_s": 0.0}, train.FOLDER / "checkpoint.pt")


if __name__ == "__main__":
    main()
