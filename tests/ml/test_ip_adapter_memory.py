"""What published IP-Adapters and their image encoders need on the device, without allocating it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.ml.test_memory import LiveBytes, Published, fused_attention, inputs_of, published, zeros  # noqa: F401
from worker.ml.guides import ip_adapter_files
from worker.ml.guides.ip_adapter import Embedded, IPAdapter
from worker.ml.guides.tiny.ip_adapter import random_weights
from worker.ml.memory import GIB
from worker.ml.protocol import GuideUse, Side


def vit(width: int, layers: int, embedding: int) -> CLIPVisionConfig:
    """A published CLIP that sees 224 pixels in patches of 14."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=embedding,
        num_hidden_layers=layers,
        num_attention_heads=16,
        patch_size=14,
    )


VIT_L, VIT_H = vit(1024, 24, 768), vit(1280, 32, 1024)


def adapter_of(published: Published, config: CLIPVisionConfig, patch: pytest.MonkeyPatch) -> tuple[IPAdapter, Any]:  # noqa: F811
    """An adapter for a published base, and what is asked of the base; all on the meta device."""
    base: Any = SimpleNamespace(
        family=published.family,
        denoiser=getattr(published.parts, published.family.denoiser),
        folder=Path("published"),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),  # so that nothing is moved
    )
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in random_weights(base, config.projection_dim).items()}
        encoder = CLIPVisionModelWithProjection(config).to(torch.bfloat16)
    weights = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    patch.setattr(ip_adapter_files, "read_weights", lambda _: weights)
    patch.setattr(ip_adapter_files, "check_finite", lambda *_: None)
    adapter = ip_adapter_files.load_adapter(Path("adapter.safetensors"), base)
    torch.nn.ModuleList(adapter.modules).to("meta")
    return IPAdapter(base, adapter, encoder), base


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(
    ("published", "encoder", "adapter_gib", "encoder_gib"),
    [("flux-dev", VIT_L, 0.914, 0.566), ("sd15", VIT_H, 0.0416, 1.177), ("sdxl", VIT_H, 0.650, 1.177)],
    indirect=["published"],
)
@torch.no_grad()
def test_what_an_adapter_needs_is_estimated_at_the_published_geometry(
    published: Published,  # noqa: F811
    encoder: CLIPVisionConfig,
    adapter_gib: float,
    encoder_gib: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The encoder's work is estimated; attention to references adds nothing to the denoiser's peak."""
    guide, base = adapter_of(published, encoder, monkeypatch)
    assert guide._weights.nbytes / GIB == pytest.approx(adapter_gib, rel=0.01)
    assert guide._encoder_weights.nbytes / GIB == pytest.approx(encoder_gib, rel=0.01)

    family, parts = published.family, published.parts
    grid = (1024 // family.token_px(parts),) * 2
    sides: tuple[Side, ...] = ("against", "wanted")
    state = Embedded({side: zeros(1, 3, encoder.projection_dim) for side in sides}, 1.0)
    with guide.attach(base), LiveBytes(base.denoiser) as denoising:
        family.predict(parts, guide.change(state, inputs_of(published, grid, 2), 0.0))
    assert 0.9 < denoising.peak / family.working_bytes(parts, grid, 2)[family.denoiser] < 1.05

    with LiveBytes(guide._encoder) as embedding:
        guide._encoder(zeros(3, 3, 224, 224), output_hidden_states=True)
    use: Any = GuideUse(guide, (zeros(1),) * 3)
    needs = guide.working_bytes(base, use, grid)
    if encoder_gib > adapter_gib:
        assert 0.9 < embedding.peak / (needs - guide._encoder_weights.nbytes) < 1.05
    else:
        assert needs == guide._weights.nbytes > guide._encoder_weights.nbytes + embedding.peak
