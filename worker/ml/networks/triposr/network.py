"""TripoSR as a whole: from a picture to a field."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from worker.ml.errors import NotFinite
from worker.ml.memory import anonymous_bytes
from worker.ml.networks.triposr.config import Config, ViTConfig
from worker.ml.networks.triposr.field import Decoder, Field
from worker.ml.networks.triposr.transformer import Transformer1D
from worker.ml.networks.triposr.triplane import TriplaneTokenizer, TriplaneUpsampler
from worker.ml.networks.triposr.vit import ImageTokenizer
from worker.ml.protocol import Pixels


class TripoSR(nn.Module):
    """The parts by the checkpoint's names."""

    def __init__(self, config: Config, vit: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tokenizer = ImageTokenizer(vit)
        self.tokenizer = TriplaneTokenizer(config.tokenizer)
        self.backbone = Transformer1D(config.backbone)
        self.post_processor = TriplaneUpsampler(config.post_processor)
        self.decoder = Decoder(config.decoder)

    @property
    def device(self) -> torch.device:
        return self.tokenizer.embeddings.device

    @property
    def anonymous_bytes(self) -> int:
        """Return the host memory that it holds: none, where its weights are on a GPU."""
        return anonymous_bytes([*self.parameters()])

    def prepared(self, picture: Pixels) -> torch.Tensor:
        """Return a picture (H, W, 3) as the network sees it: (1, S, S, 3) in 0…1. A picture of another shape is
        stretched to a square."""
        side = self.config.cond_image_size
        pixels = torch.from_numpy(np.array(picture)).to(self.device).permute(2, 0, 1)[None] / 255
        resized = functional.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return resized.permute(0, 2, 3, 1)

    @torch.no_grad()
    def scene_codes(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the planes (B, 3, C, 2·side, 2·side) of objects in pictures (B, S, S, 3) in 0…1."""
        tokens = self.backbone(self.tokenizer(len(pictures)), self.image_tokenizer(pictures))
        planes: torch.Tensor = self.post_processor(self.tokenizer.planes(tokens))
        return planes

    def field(self, picture: Pixels) -> Field:
        """Return the object in a picture (H, W, 3) on grey. Raises NotFinite."""
        planes = self.scene_codes(self.prepared(picture))[0]
        if not planes.isfinite().all():
            raise NotFinite("the mesh model gives numbers that are not finite: install its official weights again")
        return Field(planes, self.decoder, self.config.renderer)
