"""Stable Diffusion 1.x's LoRA files: in kohya's names, which every tool reads, with each alpha equal to the rank.

kohya's names are those of diffusers' modules here; ComfyUI has those of the original code. Stable Diffusion 2 and XL
have the same names, so shapes must tell: XL's transformers are deeper and stand in other blocks, both read wider text,
and both have a linear `proj_in` and `proj_out` where 1.x has convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module
from worker.ml.families.lora.u_net import layers_of_block

PLACES = {
    **{f"down_blocks.{i}.attentions.{j}": f"input_blocks.{3 * i + j + 1}.1" for i in (0, 1, 2) for j in (0, 1)},
    "mid_block.attentions.0": "middle_block.1",
    **{f"up_blocks.{i}.attentions.{j}": f"output_blocks.{3 * i + j}.1" for i in (1, 2, 3) for j in (0, 1, 2)},
}
"""Those that have attention, each with one transformer block. XL: down blocks 1 and 2, up blocks 0 and 1."""
CLIP_WIDTH = 768
"""Of the text that it reads; tiny bases read less. 2 reads 1024, XL's refiner 1280 and XL 2048."""


def _modules() -> Iterator[Module]:
    for place, original in PLACES.items():
        for name in ("proj_in", "proj_out"):
            yield Module(f"{place}.{name}", (f"{place}.{name}",), kernel=(1, 1), also=(f"{original}.{name}",))
        for name, text_width, inputs, outputs in layers_of_block(CLIP_WIDTH):
            name = f"transformer_blocks.0.{name}"
            yield Module(
                *(f"{place}.{name}", (f"{place}.{name}",), inputs, (outputs,)),
                max_text_width=text_width,
                also=(f"{original}.{name}",),
            )


NAMES = LoraNames(
    family="sd15",
    naming="kohya",
    network_module="networks.lora",
    prefix="unet.",
    modules=tuple(_modules()),
)
