"""Z-Image's LoRA files: in diffusers' names below `diffusion_model.`, as AI Toolkit writes them.

diffusers and ComfyUI read those whole. There are no alpha tensors: every reader takes the scale as 1. ComfyUI's own
model fuses query, key and value and calls the layer behind them `attention.out`: those names are read, and never
written, because diffusers ignores them below this prefix. kohya's names are musubi-tuner's, with underscores for dots:
of those ComfyUI reads the feed-forward layers alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

LAYERS, REFINERS = 30, 2
"""Of Z-Image and its Turbo: blocks, and refiners of the picture and of the text."""
STACKS = {"layers": LAYERS, "noise_refiner": REFINERS, "context_refiner": REFINERS}
ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
IN_BLOCKS = (*ATTENTION, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0")
"""Every linear layer of a block. AI Toolkit trains those of `layers`."""
ENDS = ("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1")
RENAMED_ENDS = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}
"""By their names in ComfyUI."""


def _modules() -> Iterator[Module]:
    for stack, most in STACKS.items():
        block = f"{stack}.{{}}."
        for layer in ATTENTION:
            yield Module(f"{block}{layer}", (f"{block}{layer}",), most=most)
        for layer, inputs, outputs in (("w1", 3, 8), ("w2", 8, 3), ("w3", 3, 8)):
            name = f"{block}feed_forward.{layer}"
            yield Module(name, (name,), inputs=inputs, outputs=(outputs,), most=most)
        yield Module(f"{block}adaLN_modulation.0", (f"{block}adaLN_modulation.0",), inputs=None, most=most)
    for name in (*ENDS, *RENAMED_ENDS.values()):
        yield Module(name, (name,), inputs=None)


def _read_only() -> Iterator[Module]:
    """Yield what ComfyUI calls or divides otherwise."""
    for stack, most in STACKS.items():
        query, key, value, out = (f"{stack}.{{}}.{layer}" for layer in ATTENTION)
        yield Module(f"{stack}.{{}}.attention.qkv", (query, key, value), outputs=(1, 1, 1), most=most)
        yield Module(f"{stack}.{{}}.attention.out", (out,), most=most)
    for theirs, own in RENAMED_ENDS.items():
        yield Module(theirs, (own,), inputs=None)


NAMES = LoraNames(
    family="z-image",
    naming="ComfyUI",
    network_module="networks.lora_zimage",
    prefix="transformer.",
    modules=tuple(_modules()),
    read_only=tuple(_read_only()),
    stated=r"z-?image",
)
