"""TripoSR's configuration, in the schema of the official config.yaml: numbers are read, unknown keys refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from worker.ml.errors import ModelUnreadable

NAMES = ("config.yaml", "config.json")
"""The configuration's file, the official one first. JSON is YAML."""
VITS = {"facebook/dino-vitb16": Path(__file__).with_name("dino_vitb16.json")}
"""Configurations of published vision transformers, which the official file only names."""
Model = TypeVar("Model", bound=BaseModel)
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""OmegaConf's way to repeat a value from elsewhere in the file."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ViTConfig(BaseModel):
    """A vision transformer, in transformers' schema. What it does not need is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    image_size: PositiveInt
    """Pixels a side that its table of positions was trained for; other sizes are interpolated."""
    patch_size: PositiveInt
    num_channels: Literal[3] = 3
    layer_norm_eps: PositiveFloat = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    qkv_bias: bool = True


class ImageTokenizerConfig(_Section):
    pretrained_model_name_or_path: str
    """A name of VITS, or a folder beside the configuration that holds a config.json."""


class TriplaneConfig(_Section):
    plane_size: PositiveInt
    num_channels: PositiveInt


class BackboneConfig(_Section):
    in_channels: PositiveInt
    num_attention_heads: PositiveInt = 16
    attention_head_dim: PositiveInt = 88
    num_layers: PositiveInt = 1
    cross_attention_dim: PositiveInt
    norm_num_groups: PositiveInt = 32
    attention_bias: bool = False
    activation_fn: Literal["geglu"] = "geglu"
    dropout: Annotated[float, Field(ge=0)] = 0.0  # in training only


class PostProcessorConfig(_Section):
    in_channels: PositiveInt
    out_channels: PositiveInt


class DecoderConfig(_Section):
    in_channels: PositiveInt
    n_neurons: PositiveInt
    n_hidden_layers: PositiveInt
    activation: Literal["relu", "silu"] = "relu"
    bias: bool = True


class RendererConfig(_Section):
    radius: PositiveFloat
    feature_reduction: Literal["concat"] = "concat"
    density_activation: Literal["exp", "trunc_exp"] = "trunc_exp"  # they differ in their gradients alone
    density_bias: float = -1.0
    color_activation: Literal["sigmoid"] = "sigmoid"
    num_samples_per_ray: PositiveInt = 128


class Config(_Section):
    """The whole model. `*_cls` are names of classes in the official program; others are other models."""

    cond_image_size: PositiveInt
    """Pixels a side of the picture that the network sees."""
    image_tokenizer_cls: Literal["tsr.models.tokenizers.image.DINOSingleImageTokenizer"]
    image_tokenizer: ImageTokenizerConfig
    tokenizer_cls: Literal["tsr.models.tokenizers.triplane.Triplane1DTokenizer"]
    tokenizer: TriplaneConfig
    backbone_cls: Literal["tsr.models.transformer.transformer_1d.Transformer1D"]
    backbone: BackboneConfig
    post_processor_cls: Literal["tsr.models.network_utils.TriplaneUpsampleNetwork"]
    post_processor: PostProcessorConfig
    decoder_cls: Literal["tsr.models.network_utils.NeRFMLP"]
    decoder: DecoderConfig
    renderer_cls: Literal["tsr.models.nerf_renderer.TriplaneNeRFRenderer"]
    renderer: RendererConfig


def read(folder: Path) -> tuple[Config, ViTConfig]:
    """Return the configuration of a model's folder. Raises ModelUnreadable: missing, damaged, or another model's."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise ModelUnreadable(f"{folder.name} has no {' or '.join(NAMES)}")
    config = read_file(path)
    _check_widths(config, path)
    vit_path = _vit_path(folder, config.image_tokenizer.pretrained_model_name_or_path)
    vit = _validated(ViTConfig, _parsed(vit_path), vit_path)
    if config.backbone.cross_attention_dim != vit.hidden_size:
        raise ModelUnreadable(
            f"{path.name}: backbone.cross_attention_dim is {config.backbone.cross_attention_dim}, but the vision "
            f"transformer's tokens have {vit.hidden_size} channels"
        )
    return config, vit


def read_file(path: Path) -> Config:
    """Return the configuration in a file. Raises ModelUnreadable: damaged, or another model's."""
    content = _parsed(path)
    return _validated(Config, {key: _resolved(value, content) for key, value in content.items()}, path)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelUnreadable(f"{path.name} is neither YAML nor JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelUnreadable(f"{path.name} is not a configuration: it holds no mapping of names to values")
    return content


def _resolved(value: Any, content: Mapping[str, Any]) -> Any:
    """Return a value with references such as ${tokenizer.num_channels} replaced; one to nothing stays."""
    match value:
        case dict():
            return {key: _resolved(inner, content) for key, inner in value.items()}
        case str() if reference := _REFERENCE.fullmatch(value):
            found: Any = content
            for key in reference[1].split("."):
                found = found.get(key) if isinstance(found, dict) else None
            return value if found is None else found
        case _:
            return value


def _validated(model: type[Model], content: Mapping[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelUnreadable(f"{path.name}: {key}: {first['msg']}") from error


def _check_widths(config: Config, path: Path) -> None:
    """Raise ModelUnreadable unless each part takes the channels that the one before it gives."""
    tokens, planes = config.tokenizer.num_channels, 3 * config.post_processor.out_channels
    widths = {
        "backbone.in_channels": (config.backbone.in_channels, tokens),
        "post_processor.in_channels": (config.post_processor.in_channels, tokens),
        "decoder.in_channels": (config.decoder.in_channels, planes),
    }
    for key, (width, wanted) in widths.items():
        if width != wanted:
            raise ModelUnreadable(f"{path.name}: {key} is {width}, but it is given {wanted} channels")


def _vit_path(folder: Path, name: str) -> Path:
    """Return the vision transformer's configuration. Raises ModelUnreadable for one that is neither known nor here."""
    if name in VITS:
        return VITS[name]
    path = (folder / name / "config.json").resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ModelUnreadable(
            f"the vision transformer {name} is not known: put its config.json into a folder of {folder.name}, and "
            "name that folder in image_tokenizer.pretrained_model_name_or_path"
        )
    return path
