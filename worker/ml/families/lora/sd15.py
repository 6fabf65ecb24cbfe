"""Stable Diffusion 1.x's LoRA files: in kohya's names, which every tool reads, with each alpha equal to the rank.

kohya's names are those of diffusers' modules here. Stable Diffusion 2 and XL have the same names, so shapes must tell:
XL's transformers are deeper and stand in other blocks, both read wider text, and both have a linear `proj_in` and
`proj_out` where 1.x has convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

BLOCKS = (*(f"down_blocks.{i}" for i in (0, 1, 2)), "mid_block", *(f"up_blocks.{i}" for i in (1, 2, 3)))
"""Those that have attention, each with one transformer block. XL: down blocks 1 and 2, up blocks 0 and 1."""
CLIP_WIDTH = 768
"""Of the text that it reads; tiny bases read less. 2 reads 1024, XL's refiner 1280 and XL 2048."""


def _modules() -> Iterator[Module]:
    for block in BLOCKS:
        attentions, inner = f"{block}.attentions.{{}}.", f"{block}.attentions.{{}}.transformer_blocks.0."
        for name in ("proj_in", "proj_out"):
            yield Module(*_both(f"{attentions}{name}"), kernel=(1, 1))
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            text = CLIP_WIDTH if name in ("to_k", "to_v") else None
            yield Module(*_both(f"{inner}attn1.{name}"))
            yield Module(*_both(f"{inner}attn2.{name}"), max_text_width=text)
        yield Module(*_both(f"{inner}ff.net.0.proj"), outputs=(8,))
        yield Module(*_both(f"{inner}ff.net.2"), inputs=4)


def _both(name: str) -> tuple[str, tuple[str, ...]]:
    return f"lora_unet_{name.replace('.', '_')}", (f"unet.{name}",)


NAMES = LoraNames(
    family="sd15",
    naming="kohya",
    network_module="networks.lora",
    prefix="unet.",
    modules=tuple(_modules()),
)
