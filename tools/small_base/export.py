"""Write the shipped files, `worker/demo/small_base/`, from the checkpoints, and read them back to compare."""

from __future__ import annotations

import shutil

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

from tools.small_base import decoder, train, upscalers
from tools.small_base.model import Base, Reader
from worker.demo.config import SMALL_BASE
from worker.models import UPSCALER_FILE, UPSCALERS

MAX_MB = 20.0


def pipeline() -> FluxPipeline:
    """Return a pipeline of the averaged weights, in bfloat16."""
    reader = Reader()
    base = Base(reader).eval()
    base.load_state_dict(torch.load(train.FOLDER / "checkpoint.pt", weights_only=True)["average"])
    base.transformer.set_attn_processor(FluxAttnProcessor())
    vae = decoder.trained_autoencoder()
    # `latents.standardise` has moved both into the weights.
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=1.0),
        vae=vae,
        text_encoder=base.clip,
        tokenizer=reader.clip,
        text_encoder_2=base.t5,
        tokenizer_2=reader.t5,
        transformer=base.transformer,
    ).to(torch.bfloat16)


def check_same(written: FluxPipeline, read: FluxPipeline) -> None:
    for name, part in written.components.items():
        if isinstance(part, torch.nn.Module):
            theirs = read.components[name].state_dict()
            for key, weight in part.state_dict().items():
                assert torch.equal(weight, theirs[key]), f"{name}: {key} differs after reading it back"
    prompt = "a photo of ohwx3fa81c, wearing a red t-shirt"
    for name in ("tokenizer", "tokenizer_2"):
        before, after = (pipe.components[name](prompt).input_ids for pipe in (written, read))
        assert before == after, f"{name} reads differently after reading it back: {before}, {after}"
        assert written.components[name].model_max_length == read.components[name].model_max_length


def main() -> None:
    shipped, folder = pipeline(), SMALL_BASE / "base"
    shutil.rmtree(folder, ignore_errors=True)
    shipped.save_pretrained(folder)
    check_same(shipped, FluxPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, local_files_only=True))
    for scale, slug in UPSCALERS.items():
        if upscalers.trained(scale):
            (SMALL_BASE / slug).mkdir(exist_ok=True)
            upscalers.write(scale, SMALL_BASE / slug / UPSCALER_FILE)
    size_mb = sum(path.stat().st_size for path in SMALL_BASE.rglob("*") if path.is_file()) / 1e6
    print(f"{SMALL_BASE}: {size_mb:.1f} MB")
    assert size_mb <= MAX_MB, f"{size_mb:.1f} MB is more than {MAX_MB:.0f}"


if __name__ == "__main__":
    main()
