"""How programs spell the keys of a LoRA's tensors: what stands before a layer's name, and what follows it.

Facts are those of the programs' own writers: diffusers (old and new), PEFT, sd-scripts, ComfyUI, OneTrainer, XLabs,
LyCORIS, AI Toolkit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

LokrSide = Literal["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"]
LohaSide = Literal["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]
Side = Literal["down", "up", "alpha"] | LokrSide | LohaSide
"""What a tensor is of its layer; of LyCORIS' products, LoKr and LoHa, in its own words."""

PREFIX = (
    r"(?:(?:base_model\.model\.)?(?:model\.)?(?:diffusion_model|transformer|unet)\."
    r"|base_model\.model\.|lora_unet_|lora_transformer_|lycoris_|)"
)
"""A pattern for what may stand before a layer's own name."""

_SIDES: dict[str, Side] = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha"}
_PRODUCTS: dict[str, tuple[Side, str]] = {
    **{side: (side, "LoKr") for side in get_args(LokrSide)},
    **{side: (side, "LoHa") for side in get_args(LohaSide)},
}
_PROCESSOR = re.compile(r"(?P<layer>.+)_lora(?P<stream>[12]?)\.(?P<side>down|up)\.weight")
_ENDINGS = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<side>A|B|down|up)(\.\w+)?\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_(?P<side>A|B)"),
    re.compile(r"(?P<layer>.+)\.lora(_linear_layer)?\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.(?P<side>alpha)"),
)
_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)?(lora_te\d?_|lora_prior_te_|text_encoders?(_\d)?\.|te\d?\.|clip_[lg]\.|t5xxl\.|text_model\.)"
)
_NOT_PLAIN = {  # other things that are called LoRAs or lie beside them, by a pattern in their keys
    r"dora_scale|lora_magnitude_vector": "a DoRA, which scales the base's own weights",
    r"lora_mid\.|\.(lokr|hada)_t[12]$": "a LoCon with a core",
    r"\.oft_|\.boft_|oft_blocks|oft_diag": "an OFT",
    r"ia3_|\.on_input$": "an (IA)³",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.(lora_[AB]|lora_up|lora_down)\.bias$": "a LoRA with biases, such as a control LoRA",
    r"^lora_controlnet$": "a control LoRA",
    r"\.diff(_b)?$": "a file of whole differences",
    r"\.[wb]_norm$": "a LoRA that changes norms too",
    r"^bundle_emb\.": "a LoRA with textual inversion embeddings, from pivotal tuning",
    r"^(emb_params|clip_[lg]|t5xxl)$|string_to_param": "a textual inversion embedding",
    r"^(image_proj|ip_adapter|ip_adapter_proj_model)\.|\.to_[kv]_ip\.": "an IP-Adapter",
    r"^(control_model|controlnet_\w+|controlnet_blocks)\.": "a control network",
}
_MODEL = re.compile(r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.")


@dataclass(frozen=True)
class Key:
    """A tensor of a LoRA."""

    layer: str
    """The layer's name in its file, of an attention processor without the words that old diffusers put in."""
    side: Side
    naming: str
    """The program whose spelling this is: `kohya`, `diffusers`, or another, for a person. Empty for alpha.

    Of LyCORIS' products `LoKr` or `LoHa`, in whichever spelling: none is drawn with before it is converted.
    """


def parse(key: str) -> Key | None:
    """Return what a tensor is by its key; None for one that is no part of a LoRA."""
    processor = _PROCESSOR.fullmatch(key)
    if processor:
        # `attn1.processor.to_q_lora` of old diffusers, `processor.qkv_lora1` of XLabs
        layer = f"{processor['layer'].replace('.processor.', '.')}{processor['stream']}"
        xlabs = layer.rpartition(".")[2].startswith(("qkv", "proj"))
        layer += ".0" if layer.endswith(".to_out") else ""
        return Key(layer, _SIDES[processor["side"]], "XLabs" if xlabs else "older diffusers")
    layer, _, last = key.rpartition(".")
    if layer and last in _PRODUCTS:
        return Key(layer, *_PRODUCTS[last])
    for ending in _ENDINGS:
        match = ending.fullmatch(key)
        if match:
            side = match["side"]
            return Key(match["layer"], _SIDES[side], "" if side == "alpha" else _naming(match["layer"], key, side))
    return None


def naming_of(keys: Iterable[Key]) -> str:
    """Return whose names these are, several in alphabetical order."""
    return " and ".join(sorted({key.naming for key in keys} - {""}))


def is_of_text_encoder(layer: str) -> bool:
    """Return True for the name of a text encoder's layer."""
    return _TEXT_ENCODER.match(layer) is not None


def not_plain(key: str) -> str | None:
    """Return what a file with this key is, if it is known and not a plain LoRA."""
    return next((kind for words, kind in _NOT_PLAIN.items() if re.search(words, key)), None)


def is_of_a_model(key: str) -> bool:
    """Return True for the weights of a whole model."""
    return _MODEL.match(key) is not None


def _naming(layer: str, key: str, side: str) -> str:
    begins = {
        "lora_transformer_": "OneTrainer",
        "lycoris_": "LyCORIS",
        "diffusion_model.": "ComfyUI",
        "model.diffusion_model.": "ComfyUI",
        "base_model.model.": "PEFT",
    }
    for prefix, program in begins.items():
        if layer.startswith(prefix):
            return program
    plain = key.endswith(f".lora_{side}.weight")
    if layer.startswith("lora_unet_"):
        return "kohya" if plain and side in ("down", "up") and "." not in layer else "kohya-like"
    if layer.startswith(("transformer.", "unet.")):
        return "diffusers" if plain and side in ("A", "B") else "older diffusers"
    return "bare"
