"""The networks of the base: a FLUX transformer of five million parameters and its two text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tools.small_base.autoencoder import LATENT_CHANNELS
from tools.small_base.names import LOOKS
from tools.small_base.people import Shown
from tools.small_base.text import CLIP_LENGTH, TEXT_LENGTH, clip_tokenizer, t5_tokenizer

CLIP_WIDTH, T5_WIDTH = 96, 128
Grid = tuple[int, int]  # rows and columns of the picture's tokens


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers: (B, CLIP's longest) and (B, TEXT_LENGTH)."""

    clip: torch.Tensor
    t5: torch.Tensor


class Reader:
    """Turns captions into tokens."""

    def __init__(self) -> None:
        self.clip, self.t5 = clip_tokenizer(), t5_tokenizer()

    def __call__(self, captions: Sequence[str]) -> Tokens:
        texts = list(captions)
        # Tokens after CLIP's last one change nothing: it reads from left to right.
        clip = self.clip(texts, padding="longest", truncation=True, max_length=CLIP_LENGTH, return_tensors="pt")
        t5 = self.t5(texts, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt")
        return Tokens(clip.input_ids, t5.input_ids)


class Base(nn.Module):
    """Everything but the autoencoder."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.transformer = FluxTransformer2DModel(
            in_channels=4 * LATENT_CHANNELS,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=32,
            num_attention_heads=6,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(reader.clip),
                hidden_size=CLIP_WIDTH,
                intermediate_size=192,
                num_hidden_layers=2,
                num_attention_heads=3,
                max_position_embeddings=CLIP_LENGTH,
                bos_token_id=reader.clip.bos_token_id,
                eos_token_id=reader.clip.eos_token_id,
                pad_token_id=reader.clip.pad_token_id,
            )
        )
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(reader.t5),
                d_model=T5_WIDTH,
                d_kv=32,
                d_ff=256,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
            )
        )
        # CLIP's own initial values suit a large vocabulary; with a small one, its summary never varies
        with torch.no_grad():
            self.clip.embeddings.token_embedding.weight.normal_()
            self.clip.embeddings.position_embedding.weight.normal_(std=0.5)
        # ... nor does it if the transformer, which has T5 for all details, may scale it down.
        self.clip.final_layer_norm.requires_grad_(False)
        self._start_at_zero()
        self.transformer.set_attn_processor(Attention())

    @torch.no_grad()
    def _start_at_zero(self) -> None:
        """Start with blocks that pass on their input, and an output of zero, as DiT does (arXiv 2212.09748, 3.2)."""
        transformer = self.transformer
        gates = [transformer.norm_out.linear, transformer.proj_out]
        gates += [
            norm.linear for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)
        ]
        gates += [block.norm.linear for block in transformer.single_transformer_blocks]
        for layer in gates:
            layer.weight.zero_()
            layer.bias.zero_()

    def read(self, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Return T5's states (B, TEXT_LENGTH, 128) and CLIP's summary (B, 96)."""
        return self.t5(tokens.t5).last_hidden_state, self.clip(tokens.clip).pooler_output

    def forward(self, latents: torch.Tensor, time: torch.Tensor, tokens: Tokens, grid: Grid) -> torch.Tensor:
        """Predict the velocity (B, N, C) at latents (B, N, C) and time (B,) in 0…1."""
        return self.velocity(latents, time, *self.read(tokens), grid)

    def velocity(
        self, latents: torch.Tensor, time: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor, grid: Grid
    ) -> torch.Tensor:
        predicted: torch.Tensor = self.transformer(
            hidden_states=latents,
            timestep=time,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3),
            img_ids=places(grid),
            return_dict=False,
        )[0]
        return predicted


def places(grid: Grid) -> torch.Tensor:
    """Return (N, 3): zero, row and column of each token, as `FluxPipeline` numbers them."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


class Recall(nn.Module):
    """Reads a caption's content back from the encoders, so that they learn to keep captions apart.

    It reads the tokens from CLIP's summary, and the person's looks from either encoder. One layer reads looks from
    words and from names, so that to the transformer a name means the same as the words for those looks.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        looks = sum(map(len, LOOKS.values()))
        self.words = nn.Linear(CLIP_WIDTH, len(reader.clip))
        self.clip_looks, self.t5_looks = nn.Linear(CLIP_WIDTH, looks), nn.Linear(T5_WIDTH, looks)

    def forward(
        self, text: torch.Tensor, pooled: torch.Tensor, tokens: Tokens, shown: Sequence[Shown]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross-entropies in nats: of a caption's tokens, all equally likely, and of a trait."""
        present = functional.one_hot(tokens.clip, self.words.out_features).amax(1).float()
        words = functional.cross_entropy(self.words(pooled), present / present.sum(1, keepdim=True))
        read = torch.cat([self.clip_looks(pooled), self.t5_looks(text.mean(1))])
        wanted = torch.tensor([[v.index(getattr(each, trait)) for trait, v in LOOKS.items()] for each in shown] * 2)
        by_trait = zip(read.split([len(values) for values in LOOKS.values()], dim=1), wanted.unbind(1), strict=True)
        return words, torch.stack([functional.cross_entropy(scores, label) for scores, label in by_trait]).mean()


class Attention:
    """FLUX's attention written out: twice as fast on a CPU as the fused kernel, mostly in the backward pass."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (-1, attn.head_dim))

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))), query], dim=1)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))), key], dim=1)
            value = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), value], dim=1)
        query, key = _rotated(query, image_rotary_emb), _rotated(key, image_rotary_emb)
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        scores = (query * attn.head_dim**-0.5) @ key.mT
        states = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return states
        text, picture = states.split_with_sizes([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return attn.to_out[0](picture), attn.to_add_out(text)


def _rotated(states: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate each pair of features of states (B, S, heads, D) by its position."""
    cos, sin = (part[None, :, None].to(states.dtype) for part in rotation)
    real, imaginary = states.unflatten(-1, (-1, 2)).unbind(-1)
    return states * cos + torch.stack([-imaginary, real], dim=-1).flatten(-2) * sin


def loss_of(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(predicted.float(), wanted)
