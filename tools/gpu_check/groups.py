"""The ten groups of checks, in the order in which they run."""

from __future__ import annotations

from typing import Any

from tools.gpu_check.runner import Check

GROUPS = {
    "rules": "what must hold at tiny size: the same bits for the same seed, a resumed training, a LoRA that learns",
    "parts": "FLUX.1-dev built on the device: GiB a part beside the computed ones, and the memory plan",
    "drawing": "FLUX.1-dev draws at 1024 x 1024: encoders, steps without and with a LoRA, autoencoder",
    "training": "FLUX.1-dev trains 12 steps each at 512 and 1024, checkpointed, in batches, with preservation",
    "quantised": "FLUX.1-dev in int8 and nf4: made, drawn with a LoRA, trained at 1024 with checkpointing",
    "limits": "FLUX.1-dev, klein, SDXL and Z-Image on 12, 16 and 24 GiB: which plan, does it fit, what is said",
    "moving": "parts to the device and back: GB/s, and the host's memory",
    "sd15": "Stable Diffusion 1.5: precisions, a LoRA, training in batches",
    "upscaling": "Real-ESRGAN x2 and x4 at 1024 x 1024, in tiles and whole",
    "process": "the GPU process: ready, a task, an interrupt, a kill, a device assertion",
}
FAMILIES = ("flux", "sd15")


def _check(group: str, name: str, function: str, deadline_s: float, **settings: Any) -> Check:
    return Check(group, name, f"tools.gpu_check.checks.{function}", deadline_s, settings)


CHECKS: tuple[Check, ...] = (
    *(_check("rules", f"{family}: same seed", "tiny_rules:same_seed", 60, family=family) for family in FAMILIES),
    *(_check("rules", f"{family}: resume", "tiny_rules:resume", 60, family=family) for family in FAMILIES),
    *(_check("rules", f"{family}: learning", "tiny_rules:learn", 60, family=family) for family in FAMILIES),
    _check("rules", "upscaler", "tiny_rules:upscaler_agrees", 30),
    _check("parts", "build", "flux_memory:build", 120),
    _check("parts", "plan", "flux_memory:plan", 120),
    _check("drawing", "encode", "drawing:encode", 120),
    _check("drawing", "8 steps", "drawing:draw", 120, lora=False),
    _check("drawing", "attach a LoRA", "drawing:attach_lora", 120),
    _check("drawing", "8 steps with a LoRA", "drawing:draw", 120, lora=True),
    _check("drawing", "decode 1024", "drawing:decode", 60, side_px=1024),
    _check("drawing", "decode 2048", "drawing:decode", 60, side_px=2048),
    _check("training", "512", "training:flux", 120, resolution=512),
    _check("training", "512 checkpointed", "training:flux", 120, resolution=512, checkpointed=True),
    _check("training", "512 batch 4", "training:flux", 120, resolution=512, batch_size=4),
    _check("training", "1024", "training:flux", 120, resolution=1024),
    _check("training", "512 preservation 1", "training:flux", 120, resolution=512, preserved=True),
    *(
        _check("quantised", f"{form}: {name}", f"quantised:{function}", 120, form=form, **settings)
        for form in ("int8", "nf4")
        for name, function, settings in (
            ("make", "make", {}),
            ("8 steps with a LoRA", "draw", {}),
            ("train 1024 checkpointed", "train", {"resolution": 1024}),
        )
    ),
    *(
        _check("limits", f"{limit_gib} GiB", "flux_memory:limited", 120, limit_gib=limit_gib)
        for limit_gib in (32, 24, 16, 12)
    ),
    *(
        _check("limits", f"{family}: {gib} GiB", "flux_memory:limited", 120, limit_gib=gib, family=family)
        for family in ("klein", "sdxl", "z-image")
        for gib in (24, 16, 12)
    ),
    *(
        _check("moving", part, "flux_memory:move", 60, part=part)
        for part in ("transformer", "text_encoder_2", "text_encoder", "vae")
    ),
    _check("moving", "mapped from a file", "flux_memory:move_mapped", 120),
    _check("sd15", "precision", "sd15:precision", 120),
    _check("sd15", "LoRA", "sd15:lora", 60),
    _check("sd15", "training batch 1", "sd15:train", 60, batch_size=1),
    _check("sd15", "training batch 4", "sd15:train", 60, batch_size=4),
    _check("upscaling", "x2", "upscaling:upscale", 60, scale=2),
    _check("upscaling", "x4", "upscaling:upscale", 60, scale=4),
    _check("process", "life", "gpu_process:life", 120),
    _check("process", "device assertion", "gpu_process:device_assertion", 120),
)
