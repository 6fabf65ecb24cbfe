"""Families that this worker does not know, so that a LoRA of one is called by its name.

What tells them is their layers' names without a prefix and with underscores for dots, in some cases with their shapes,
or what a training program wrote into the file's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from worker.ml.adapters.names import Shape
from worker.ml.adapters.spellings import PREFIX

_NAMES = (
    (
        "FLUX.2 of another size",
        r"single_transformer_blocks_\d+_attn_to_(qkv_mlp_proj|out)|double_stream_modulation_.*|single_stream_modulation_.*"
        r"|transformer_blocks_\d+_ff(_context)?_linear_(in|out)|time_guidance_embed_.*",
    ),
    (
        "a relative of Z-Image, such as Lumina 2",
        r"(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN_modulation)_.*|cap_embedder_.*",
    ),
    ("a relative of Qwen-Image, such as Qwen-Image-2.1", r"transformer_blocks_\d+_(img|txt)_(mlp|mod)_.*"),
    ("Stable Diffusion 3", r"joint_blocks_.*|transformer_blocks_\d+_attn2_(add_|to_).*"),
    ("HunyuanVideo", r"double_blocks_\d+_(img|txt)_(mlp_fc|mod_linear).*|.*token_refiner.*"),
    ("Chroma", r"distilled_guidance_layer_.*"),
    ("Wan", r"blocks_\d+_(self_attn|cross_attn|ffn|attn1|attn2)_.*"),
)
_SHAPES: Sequence[
    tuple[str, str, Callable[[int, int], bool]]
] = (  # a name, and the inputs and outputs that it has there
    ("the refiner of SDXL", r".*_attn2_to_[kv]", lambda inputs, _: inputs == 1280),
    ("Stable Diffusion 2", r".*_attn2_to_[kv]", lambda inputs, _: inputs == 1024),
    ("FLUX.2 of another size", r"single_blocks_\d+_linear1", lambda inputs, outputs: outputs == 9 * inputs),
    ("FLUX.2 of another size", r"single_blocks_\d+_linear2", lambda inputs, outputs: inputs == 4 * outputs),
    ("FLUX.2 of another size", r"double_blocks_\d+_\w+_mlp_0", lambda inputs, outputs: outputs == 6 * inputs),
    ("FLUX.2 of another size", r"double_blocks_\d+_\w+_mlp_2", lambda inputs, outputs: inputs == 3 * outputs),
)
_LINEAR_PROJECTION = re.compile(r"(.*_)?(attentions|blocks)_.*_proj_(in|out)")
_METADATA = ("ss_base_model_version", "modelspec.architecture")
_STATED = (
    ("Stable Diffusion 2", r"sd_?v?2|stable-diffusion-v2"),
    ("Stable Diffusion 3", r"sd3|stable-diffusion-3"),
    ("Chroma", r"chroma"),
    ("Qwen-Image-Edit", r"qwen[-_ ]?image[-_ ]?edit"),
    ("Qwen-Image-Layered", r"qwen[-_ ]?image[-_ ]?layered"),
    ("HunyuanVideo", r"hunyuan"),
    ("Wan", r"wan"),
    ("Lumina 2", r"lumina"),
)


def named_by_layers(layers: Mapping[str, Shape]) -> str | None:
    """Return the family that has these layers, None if none of these has."""
    own = {re.sub(f"^{PREFIX}", "", layer).replace(".", "_"): shape for layer, shape in layers.items()}
    for family, names in _NAMES:
        if any(re.fullmatch(names, layer) for layer in own):
            return family
    for family, names, fits in _SHAPES:
        if any(re.fullmatch(names, layer) and fits(*shape[:2]) for layer, shape in own.items()):
            return family
    if any(_LINEAR_PROJECTION.fullmatch(layer) and len(shape) == 2 for layer, shape in own.items()):
        return "Stable Diffusion 2"
    return None


def named_by_metadata(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the family that the metadata states and its words, None if it states none of these."""
    for family, pattern in _STATED:
        words = words_like(pattern, metadata)
        if words is not None:
            return family, words
    return None


def words_like(pattern: str, metadata: Mapping[str, str]) -> str | None:
    """Return what the metadata states about the family if it begins with this pattern, None if it does not."""
    stated = (metadata.get(key, "")[:100] for key in _METADATA)
    return next((words for words in stated if re.match(pattern, words, re.IGNORECASE)), None)
