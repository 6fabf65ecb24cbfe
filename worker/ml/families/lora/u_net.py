"""The LoRA layers of a U-Net's transformer block, which Stable Diffusion 1.x and SDXL have in the same names."""

from __future__ import annotations

from collections.abc import Iterator


def layers_of_block(text_width: int) -> Iterator[tuple[str, int | None, int, int]]:
    """Yield each layer's name, the width of the text if it reads text, and its proportion of inputs to outputs."""
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield f"attn1.{name}", None, 1, 1
        yield f"attn2.{name}", text_width if name in ("to_k", "to_v") else None, 1, 1
    yield "ff.net.0.proj", None, 1, 8
    yield "ff.net.2", None, 4, 1
