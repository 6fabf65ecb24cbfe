"""Converts single files, as ComfyUI users and publishers have them, to a base in diffusers layout.

Weights keep their precision and their values. Tensor names tell which model it is; everything else (the sampler, the
activation, the native size) comes from the configurations beside this file. Every tensor of the model must be present
in its size, so a file in the wrong place is refused by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from worker.ml.errors import ModelUnreadable
from worker.ml.single_files import flux_names

Weights = dict[str, torch.Tensor]
Configs = dict[str, dict[str, Any]]
HERE = Path(__file__).parent
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
SHARD = "5GB"


def import_flux(
    target: Path, files: Mapping[str, Path], tokenizers: Path, configs: Path | None, say: Callable[[str], None]
) -> None:
    """Import FLUX from `transformer`, `vae`, `clip` and `t5` files. Only dev has a guidance embedding, schnell has not.

    Raises ModelUnreadable, naming the file, for one of the wrong kind.
    """
    say(f"reading {files['transformer'].name}")
    transformer = _without(_read(files["transformer"]), "model.diffusion_model.")
    guided = any("guidance" in name for name in transformer)
    plan = _configs("flux-dev" if guided else "flux-schnell", configs)
    _start(target, plan, tokenizers, ("tokenizer", "tokenizer_2"))
    if "img_in.weight" in transformer:
        try:
            transformer = flux_names.to_diffusers(transformer)
        except KeyError as error:
            raise ModelUnreadable(f"{files['transformer'].name} is not a FLUX.1 transformer: it has {error}") from error
    _write(target, "transformer", transformer, _flux_shapes(plan), files["transformer"])
    del transformer
    say(f"reading {files['vae'].name}")
    _write(target, "vae", _autoencoder(_read(files["vae"]), plan), _autoencoder_shapes(plan), files["vae"])
    say(f"reading {files['clip'].name}")
    _write(target, "text_encoder", _clip(_read(files["clip"])), _clip_shapes(plan), files["clip"])
    say(f"reading {files['t5'].name}")
    _write(target, "text_encoder_2", _t5(_read(files["t5"])), _t5_shapes(plan), files["t5"])


def import_sd15(
    target: Path, files: Mapping[str, Path], tokenizers: Path, configs: Path | None, say: Callable[[str], None]
) -> None:
    """Import Stable Diffusion 1.5 from one `checkpoint`; a `vae` file replaces its own. Raises ModelUnreadable."""
    file = files["checkpoint"]
    say(f"reading {file.name}")
    weights = _read(file)
    plan = _configs("sd15", configs)
    _start(target, plan, tokenizers, ("tokenizer",))
    unet = {name: tensor for name, tensor in weights.items() if name.startswith("model.diffusion_model.")}
    try:
        converted = convert_ldm_unet_checkpoint(unet, dict(plan["unet/config.json"]))
    except KeyError as error:
        raise ModelUnreadable(f"{file.name} is not a Stable Diffusion 1.5 checkpoint: {error} is missing") from error
    _write(target, "unet", converted, _unet_shapes(plan), file)
    vae_file = files.get("vae", file)
    vae = _read(vae_file) if "vae" in files else _without(weights, "first_stage_model.")
    _write(target, "vae", _autoencoder(vae, plan), _autoencoder_shapes(plan), vae_file)
    clip = _without(weights, "cond_stage_model.transformer.")
    _write(target, "text_encoder", _clip(clip), _clip_shapes(plan), file)


def _read(file: Path) -> Weights:
    if file.suffix != ".safetensors":
        raise ModelUnreadable(
            f"{file.name}: unsupported file type, only .safetensors files are read (.ckpt and .bin are pickles)"
        )
    try:
        weights: Weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelUnreadable(f"{file.name} cannot be read: {error}") from error
    small = sorted({str(tensor.dtype) for tensor in weights.values() if tensor.dtype.itemsize < 2})
    if small:
        raise ModelUnreadable(
            f"{file.name} is quantised ({', '.join(small).replace('torch.', '')}): use the file in bf16, fp16 or fp32"
        )
    return weights


def _configs(name: str, own: Path | None) -> Configs:
    """Return the published model's configurations; those of a folder in diffusers layout replace them."""
    plan: Configs = json.loads((HERE / "flux-dev.json").read_text("utf-8")) if name.startswith("flux") else {}
    plan |= json.loads((HERE / f"{name}.json").read_text("utf-8"))
    if own is not None:
        plan |= {path: json.loads((own / path).read_text("utf-8")) for path in plan if (own / path).is_file()}
    return plan


def _start(target: Path, plan: Configs, tokenizers: Path, needed: tuple[str, ...]) -> None:
    """Write the configurations and tokenizers, which need no weights."""
    for part in needed:
        files = [path for pattern in TOKENIZER_FILES for path in sorted((tokenizers / part).glob(pattern))]
        if not files:
            raise ModelUnreadable(
                f"{part} not found in {tokenizers}: weight files do not contain tokenizers. Use the folders "
                f"{' and '.join(needed)} of the model's repository in diffusers layout, or of a base that was pulled"
            )
        (target / part).mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, target / part / path.name)
    for name, config in plan.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _write(target: Path, part: str, weights: Weights, shapes: Mapping[str, torch.Size], file: Path) -> None:
    """Write a part's weights. Raises ModelUnreadable unless these are exactly its tensors."""
    missing = [name for name in shapes if name not in weights]
    unknown = [name for name in weights if name not in shapes]
    if missing or unknown:
        reason = (
            f"{len(missing)} tensors are missing, such as {missing[0]}" if missing else f"unknown tensor {unknown[0]}"
        )
        raise ModelUnreadable(f"{file.name} is not a {part} of this family: {reason}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ModelUnreadable(
                f"{file.name} is not a {part} of this size: {name} is {list(weights[name].shape)}, not {list(shape)}"
            )
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    contiguous = {name: weights[name].contiguous() for name in shapes}
    save_torch_state_dict(
        contiguous, target / part, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=SHARD
    )


def _without(weights: Weights, prefix: str) -> Weights:
    """Return the weights below a prefix, or all of them if the prefix is not used."""
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return below or weights


def _autoencoder(weights: Weights, plan: Configs) -> Weights:
    if any(name.startswith("encoder.down_blocks.") for name in weights):
        return weights
    try:
        converted: Weights = convert_ldm_vae_checkpoint(weights, dict(plan["vae/config.json"]))
    except (KeyError, AttributeError) as error:
        raise ModelUnreadable(f"the autoencoder cannot be read: {error} is missing") from error
    return converted


def _clip(weights: Weights) -> Weights:
    """Return the text half, without its buffer of positions and the projection that diffusers does not use."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith("text_model.") and not name.endswith("position_ids")
    }


def _t5(weights: Weights) -> Weights:
    """Return the encoder half. Its embedding has either of two names, or both."""
    encoder = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.", "shared."))}
    embedding = encoder.pop("encoder.embed_tokens.weight", None)
    if embedding is not None:
        encoder.setdefault("shared.weight", embedding)
    return encoder


def _flux_shapes(plan: Configs) -> dict[str, torch.Size]:
    return _shapes(lambda: FluxTransformer2DModel.from_config(plan["transformer/config.json"]))


def _unet_shapes(plan: Configs) -> dict[str, torch.Size]:
    return _shapes(lambda: UNet2DConditionModel.from_config(plan["unet/config.json"]))


def _autoencoder_shapes(plan: Configs) -> dict[str, torch.Size]:
    return _shapes(lambda: AutoencoderKL.from_config(plan["vae/config.json"]))


def _clip_shapes(plan: Configs) -> dict[str, torch.Size]:
    """Return sizes by the names in files; in memory, transformers 5 omits their prefix."""
    shapes = _shapes(lambda: CLIPTextModel(CLIPTextConfig.from_dict(plan["text_encoder/config.json"])))
    return {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes.items()}


def _t5_shapes(plan: Configs) -> dict[str, torch.Size]:
    return _shapes(lambda: T5EncoderModel(T5Config.from_dict(plan["text_encoder_2/config.json"])))


def _shapes(build: Callable[[], torch.nn.Module]) -> dict[str, torch.Size]:
    """Return the size of every parameter of a model by name, without allocating it."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in build().named_parameters()}
