"""What a user of plain diffusers would write. The worker's pictures and losses are compared with this."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    Flux2KleinPipeline,
    FluxControlNetPipeline,
    FluxPipeline,
    QwenImagePipeline,
    ZImageControlNetPipeline,
    ZImagePipeline,
)
from diffusers.training_utils import compute_snr

from worker.ml.train.batches import Batch

FLUX_PIPELINES = (FluxPipeline, FluxControlNetPipeline)
Z_IMAGE_PIPELINES = (ZImagePipeline, ZImageControlNetPipeline)


@dataclass(frozen=True)
class Control:
    """A control network's folder, its class, and the pipeline that it is used in."""

    folder: Path
    network: Any
    pipeline: Any


def draw(
    base: Path,
    prompt: str,
    *,
    seed: int,
    loras: list[tuple[Path, float]] | None = None,
    adapter: tuple[Path, float] | None = None,
    dtype: torch.dtype = torch.float32,
    control: Control | None = None,
    **settings: Any,
) -> npt.NDArray[np.uint8]:
    """A picture by the base's own pipeline or a control network's; guidance that FLUX does not embed is true CFG."""
    # SDXL's pipeline puts a watermark on pictures where the package is installed; others ignore the argument.
    parts = {"controlnet": control.network.from_pretrained(control.folder, dtype=dtype)} if control else {}
    pipeline = (control.pipeline if control else DiffusionPipeline).from_pretrained(
        base, dtype=dtype, local_files_only=True, add_watermarker=False, **parts
    )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # torch multiplies weights that could be trained otherwise: in another last bit
    for number, (path, _) in enumerate(loras or []):
        pipeline.load_lora_weights(path, adapter_name=f"lora{number}")
    if any(scale != 1 for _, scale in loras or []):
        pipeline.set_adapters([f"lora{i}" for i in range(len(loras))], [scale for _, scale in loras])
    if adapter:
        load_ip_adapter(pipeline, *adapter)
    generator = torch.Generator("cpu").manual_seed(seed)
    return np.asarray(pipeline(prompt=prompt, generator=generator, **told(pipeline, settings)).images[0])


def told(pipeline: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a pipeline wants them."""
    if isinstance(pipeline, FLUX_PIPELINES):
        settings["max_sequence_length"] = pipeline.tokenizer_2.model_max_length
        if not pipeline.transformer.config.guidance_embeds:
            settings["true_cfg_scale"] = settings.pop("guidance_scale")
    if isinstance(pipeline, Flux2KleinPipeline):  # which takes a negative prompt only if it is encoded
        length = settings["max_sequence_length"] = pipeline.tokenizer.model_max_length
        if against := settings.pop("negative_prompt", None):
            settings["negative_prompt_embeds"], _ = pipeline.encode_prompt(against, max_sequence_length=length)
    if isinstance(pipeline, QwenImagePipeline):
        settings["max_sequence_length"] = pipeline.tokenizer.model_max_length
        settings["true_cfg_scale"] = settings.pop("guidance_scale")
        settings.setdefault("negative_prompt", " ")  # as its card recommends
    if isinstance(pipeline, Z_IMAGE_PIPELINES):
        settings["max_sequence_length"] = pipeline.tokenizer.model_max_length
    if isinstance(pipeline, ZImageControlNetPipeline):
        start, end = settings.pop("control_guidance_start", 0.0), settings.pop("control_guidance_end", 1.0)
        keep_to_window(pipeline.controlnet, start, end, settings["num_inference_steps"])
    return settings


def keep_to_window(network: Any, start: float, end: float, steps: int) -> None:
    """Ask a network only in the steps that are inside a window, as other families' pipelines do and this one cannot."""
    forward, step = network.forward, itertools.count()

    def within(*args: Any, **kwargs: Any) -> Any:
        index = next(step)
        return None if index / steps < start or (index + 1) / steps > end else forward(*args, **kwargs)

    network.forward = within


def load_ip_adapter(pipeline: Any, folder: Path, scale: float) -> None:
    """Load an adapter with its image encoder, in the pipeline's precision."""
    encoder = {"subfolder": ""}
    if isinstance(pipeline, FLUX_PIPELINES):
        encoder = {
            "image_encoder_pretrained_model_name_or_path": str(folder / "image_encoder"),
            "image_encoder_dtype": pipeline.dtype,
        }
    pipeline.load_ip_adapter(str(folder), weight_name="ip-adapter.safetensors", **encoder)
    pipeline.set_ip_adapter_scale(scale)


def flux_loss(
    pipeline: FluxPipeline, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, prompts: list[str]
) -> torch.Tensor:
    """The loss of examples/dreambooth/train_dreambooth_lora_flux.py for latents (B, C, h, w) and sigma (B,)."""
    tokens, pooled, text_ids = pipeline.encode_prompt(
        prompts, max_sequence_length=pipeline.tokenizer_2.model_max_length
    )
    image_ids = pipeline._prepare_latent_image_ids(
        1, latents.shape[2] // 2, latents.shape[3] // 2, latents.device, latents.dtype
    )
    sigmas = sigma.view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    prediction = pipeline.transformer(
        hidden_states=FluxPipeline._pack_latents(noisy, *noisy.shape),
        timestep=sigma,
        guidance=torch.ones(len(latents)),
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=text_ids,
        img_ids=image_ids,
        return_dict=False,
    )[0]
    factor = pipeline.vae_scale_factor
    prediction = FluxPipeline._unpack_latents(prediction, latents.shape[2] * factor, latents.shape[3] * factor, factor)
    target = noise - latents
    return torch.mean((prediction - target).pow(2).reshape(len(target), -1), 1).mean()


def flux_loss_of_batch(pipeline: FluxPipeline, batch: Batch, prompts: list[str]) -> torch.Tensor:
    factor = pipeline.vae_scale_factor
    height, width = (2 * factor * side for side in batch.grid)
    latents, noise = (pipeline._unpack_latents(x, height, width, factor) for x in (batch.latents, batch.noise))
    return flux_loss(pipeline, latents, noise, batch.time, prompts)


def klein_loss(pipeline: Flux2KleinPipeline, batch: Batch, prompts: list[str]) -> torch.Tensor:
    """The loss of examples/dreambooth/train_dreambooth_lora_flux2_klein.py, but for its noise, times and text layers.

    Its latents (B, C, h, w) are patchified and normalised already.
    """
    tokens, text_ids = pipeline.encode_prompt(prompts, max_sequence_length=pipeline.tokenizer.model_max_length)
    latents, noise = (x.transpose(1, 2).unflatten(2, batch.grid) for x in (batch.latents, batch.noise))
    ids = Flux2KleinPipeline._prepare_latent_ids(latents)
    sigmas = batch.time.view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    prediction = pipeline.transformer(
        hidden_states=Flux2KleinPipeline._pack_latents(noisy),
        timestep=batch.time,
        guidance=None,
        encoder_hidden_states=tokens,
        txt_ids=text_ids,
        img_ids=ids,
        return_dict=False,
    )[0]
    prediction = Flux2KleinPipeline._unpack_latents_with_ids(prediction, ids)
    target = noise - latents
    return torch.mean((prediction - target).pow(2).reshape(len(target), -1), 1).mean()


def qwen_image_loss(pipeline: QwenImagePipeline, batch: Batch, prompts: list[str]) -> torch.Tensor:
    """The loss of examples/dreambooth/train_dreambooth_lora_qwen_image.py, but for its noise and times.

    Its latents (B, C, 1, h, w) are normalised already.
    """
    prompt_embeds, prompt_embeds_mask = pipeline.encode_prompt(
        prompts, max_sequence_length=pipeline.tokenizer.model_max_length
    )
    factor = pipeline.vae_scale_factor
    height, width = (2 * factor * side for side in batch.grid)
    model_input, noise = (pipeline._unpack_latents(x, height, width, factor) for x in (batch.latents, batch.noise))
    sigmas = batch.time.view(-1, 1, 1, 1, 1)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    packed = QwenImagePipeline._pack_latents(
        noisy_model_input.permute(0, 2, 1, 3, 4), len(noise), noise.shape[1], *noise.shape[3:]
    )
    model_pred = pipeline.transformer(
        hidden_states=packed,
        encoder_hidden_states=prompt_embeds,
        encoder_hidden_states_mask=prompt_embeds_mask,
        timestep=batch.time,
        img_shapes=[(1, *batch.grid)] * len(noise),
        return_dict=False,
    )[0]
    model_pred = QwenImagePipeline._unpack_latents(model_pred, height, width, factor)
    target = noise - model_input
    return torch.mean(((model_pred - target) ** 2).reshape(len(target), -1), 1).mean()


def z_image_loss(pipeline: ZImagePipeline, batch: Batch, prompts: list[str]) -> torch.Tensor:
    """The loss of examples/dreambooth/train_dreambooth_lora_z_image.py, but for its noise and times."""
    prompt_embeds, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=pipeline.tokenizer.model_max_length
    )
    timesteps = 1000 * (1 - batch.time)
    sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * batch.latents + sigmas * batch.noise
    predictions = pipeline.transformer(
        list(noisy.unsqueeze(2).unbind(dim=0)), (1000 - timesteps) / 1000, prompt_embeds, return_dict=False
    )[0]
    prediction = -torch.stack(predictions, dim=0).squeeze(2)
    target = batch.noise - batch.latents
    return torch.mean((prediction - target).pow(2).reshape(len(target), -1), 1).mean()


def stable_diffusion_loss(
    pipeline: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, prompts: list[str]
) -> torch.Tensor:
    """The loss of examples/text_to_image/train_text_to_image_lora.py with --snr_gamma=5."""
    encoder_hidden_states = pipeline.text_encoder(token_ids(pipeline.tokenizer, prompts), return_dict=False)[0]
    return min_snr_loss(
        pipeline,
        latents,
        noise,
        timesteps,
        lambda noisy: pipeline.unet(noisy, timesteps, encoder_hidden_states, return_dict=False)[0],
    )


def token_ids(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    padded = {"max_length": tokenizer.model_max_length, "padding": "max_length", "truncation": True}
    ids: torch.Tensor = tokenizer(prompts, **padded, return_tensors="pt").input_ids
    return ids


def min_snr_loss(
    pipeline: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    predict: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = noise_scheduler.add_noise(latents, noise, timesteps)
    v_prediction = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if v_prediction else noise
    prediction = predict(noisy)
    snr = compute_snr(noise_scheduler, timesteps)
    weights = torch.stack([snr, 5.0 * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    weights = weights / (snr + 1) if v_prediction else weights / snr
    loss = F.mse_loss(prediction.float(), target.float(), reduction="none")
    return (loss.mean(dim=list(range(1, len(loss.shape)))) * weights).mean()


def stable_diffusion_loss_of_batch(pipeline: Any, batch: Batch, prompts: list[str]) -> torch.Tensor:
    return stable_diffusion_loss(pipeline, batch.latents, batch.noise, batch.time, prompts)


PHOTO_SIZE = (256, 192)
"""Height and width of the photos that the tests train on."""


def sdxl_loss_of_batch(pipeline: Any, batch: Batch, prompts: list[str]) -> torch.Tensor:
    """The loss of examples/text_to_image/train_text_to_image_lora_sdxl.py with --snr_gamma=5 and --center_crop.

    The original size is height before width, as in examples/dreambooth/train_dreambooth_lora_sdxl.py. Photos are
    trained at their own shape, where the scripts have a square.
    """
    size = [side * pipeline.vae_scale_factor for side in batch.grid]
    scale = max(wanted / own for wanted, own in zip(size, PHOTO_SIZE, strict=True))
    crop = [max(0, round((own * scale - wanted) / 2)) for wanted, own in zip(size, PHOTO_SIZE, strict=True)]
    add_time_ids = torch.tensor([[*PHOTO_SIZE, *crop, *size]] * len(prompts), dtype=torch.float32)
    prompt_embeds = []
    for tokenizer, text_encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        encoded = text_encoder(token_ids(tokenizer, prompts), output_hidden_states=True, return_dict=False)
        pooled_prompt_embeds = encoded[0]
        prompt_embeds.append(encoded[-1][-2])
    unet_added_conditions = {"time_ids": add_time_ids, "text_embeds": pooled_prompt_embeds}
    return min_snr_loss(
        pipeline,
        batch.latents,
        batch.noise,
        batch.time,
        lambda noisy: (
            pipeline.unet(
                noisy, batch.time, torch.cat(prompt_embeds, dim=-1), added_cond_kwargs=unet_added_conditions
            ).sample
        ),
    )


LOSSES: dict[str, Callable[[Any, Batch, list[str]], torch.Tensor]] = {
    "flux": flux_loss_of_batch,
    "klein": klein_loss,
    "qwen-image": qwen_image_loss,
    "sd15": stable_diffusion_loss_of_batch,
    "sdxl": sdxl_loss_of_batch,
    "z-image": z_image_loss,
}
"""The loss of each family's script for a batch whose photos have these captions."""
