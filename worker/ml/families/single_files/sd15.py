"""Stable Diffusion 1.5 from one checkpoint, in the names of the original code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.ml.families.single_files import kinds, ldm
from worker.ml.single_files import parts, shared_parts

PUBLISHED = (Path(__file__).parent / "sd15.json",)


def import_files(target: Path, files: Mapping[str, Path], configs: Path | None, say: Callable[[str], None]) -> None:
    """Import a `checkpoint`; a `vae` file replaces its own. Raises ModelUnreadable, naming the file."""
    file = files["checkpoint"]
    say(f"reading {file.name}")
    weights = parts.read_weights(file)
    plan = parts.read_configs(PUBLISHED, configs)
    parts.write_configs(target, plan)
    ldm.check_checkpoint(file, weights, kinds.LDM)
    ldm.write_unet(target, file, weights, plan, "Stable Diffusion 1.5")
    ldm.write_vae(target, file, weights, plan, files.get("vae"))
    clip = shared_parts.clip(ldm.inside(file, weights, "cond_stage_model.transformer.", "text_encoder"))
    parts.write_part(target, "text_encoder", clip, shared_parts.clip_shapes(plan), file)
