"""SDXL's LoRA files: in kohya's names, which every tool reads, with each alpha equal to the rank.

kohya's names are those of the original code here, also ComfyUI's; AI Toolkit writes diffusers' with underscores. In
those, layers are named as Stable Diffusion 1.x's are, but in other blocks, in deeper transformers, and with a linear
`proj_in` and `proj_out`. The refiner has the same names too, in more blocks, and reads narrower text.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module
from worker.ml.families.lora.u_net import layers_of_block

PLACES = {
    **{f"down_blocks.1.attentions.{j}": (f"input_blocks.{4 + j}.1", 2) for j in (0, 1)},
    **{f"down_blocks.2.attentions.{j}": (f"input_blocks.{7 + j}.1", 10) for j in (0, 1)},
    "mid_block.attentions.0": ("middle_block.1", 10),
    **{f"up_blocks.0.attentions.{j}": (f"output_blocks.{j}.1", 10) for j in (0, 1, 2)},
    **{f"up_blocks.1.attentions.{j}": (f"output_blocks.{3 + j}.1", 2) for j in (0, 1, 2)},
}
"""Those that have attention, by their names in the original code, and how many transformer blocks each has."""
TEXT_WIDTH = 2048
"""Of both text encoders together; tiny bases read less."""


def _modules() -> Iterator[Module]:
    for place, (original, depth) in PLACES.items():
        for name in ("proj_in", "proj_out"):
            yield Module(f"{original}.{name}", (f"{place}.{name}",))
        for name, text_width, inputs, outputs in layers_of_block(TEXT_WIDTH):
            name = f"transformer_blocks.{{}}.{name}"
            yield Module(
                *(f"{original}.{name}", (f"{place}.{name}",), inputs, (outputs,)),
                max_text_width=text_width,
                most=depth,
            )


NAMES = LoraNames(
    family="sdxl",
    naming="kohya",
    network_module="networks.lora",
    prefix="unet.",
    modules=tuple(_modules()),
)
