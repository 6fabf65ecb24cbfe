"""Lumina 2's LoRA files, in diffusers' names, as its script writes them. kohya's are those of sd-scripts'
networks/lora_lumina.py: the original code's, which fuses query, key and value.

Attention is grouped: three queries share a key and a value.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.ml.adapters.names import LoraNames, Module

STACKS = ("layers", "noise_refiner", "context_refiner")


def _modules() -> Iterator[Module]:
    for stack in STACKS:
        ours = f"{stack}.{{}}."  # the same in both
        fused = tuple(f"{ours}attn.{name}" for name in ("to_q", "to_k", "to_v"))
        yield Module(f"{ours}attention.qkv", fused, inputs=3, outputs=(3, 1, 1))
        yield Module(f"{ours}attention.out", (f"{ours}attn.to_out.0",))
        yield Module(f"{ours}feed_forward.w1", (f"{ours}feed_forward.linear_1",), outputs=(4,))
        yield Module(f"{ours}feed_forward.w2", (f"{ours}feed_forward.linear_2",), inputs=4)
        yield Module(f"{ours}feed_forward.w3", (f"{ours}feed_forward.linear_3",), outputs=(4,))


NAMES = LoraNames(
    family="lumina2",
    naming="diffusers",
    network_module="networks.lora_lumina",
    prefix="transformer.",
    modules=tuple(_modules()),
)
