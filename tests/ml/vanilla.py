"""What a user of plain diffusers would write. The worker's pictures are held against this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import FluxPipeline


def draw(
    base: Path,
    prompt: str,
    *,
    seed: int,
    loras: list[tuple[Path, float]] | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: float,
) -> npt.NDArray[np.uint8]:
    pipeline = FluxPipeline.from_pretrained(base, dtype=dtype, local_files_only=True)
    for number, (path, _) in enumerate(loras or []):
        pipeline.load_lora_weights(path, adapter_name=f"lora{number}")
    if any(scale != 1 for _, scale in loras or []):
        pipeline.set_adapters([f"lora{i}" for i in range(len(loras))], [scale for _, scale in loras])
    picture = pipeline(
        prompt,
        generator=torch.Generator("cpu").manual_seed(seed),
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        **settings,
    ).images[0]
    return np.asarray(picture)
