"""What the checks of one process share: the device, a folder for their files, photos, and the bases."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tools.gpu_check import random_base
from tools.gpu_check.measure import gib
from tools.gpu_check.random_base import BuiltPart
from worker.demo.drawing import portrait
from worker.ml import memory
from worker.ml.adapters import files as lora_files
from worker.ml.families.latent_diffusion import LatentDiffusion, with_noise_schedule
from worker.ml.families.registry import FAMILIES
from worker.ml.families.single_files import flux1, klein, sd15, sdxl, z_image
from worker.ml.families.tiny import flux1 as tiny_flux1
from worker.ml.families.tiny import klein as tiny_klein
from worker.ml.families.tiny import sd15 as tiny_sd15
from worker.ml.families.tiny import sdxl as tiny_sdxl
from worker.ml.families.tiny import z_image as tiny_z_image
from worker.ml.models import Base
from worker.ml.single_files.parts import read_configs
from worker.ml.train.batches import Photo

TINY = {
    "flux": tiny_flux1.build_tiny,
    "klein": tiny_klein.build_tiny,
    "sd15": tiny_sd15.build_tiny,
    "sdxl": tiny_sdxl.build_tiny,
    "z-image": tiny_z_image.build_tiny,
}
CONFIGS = {"flux": flux1.DEV, "klein": klein.BASE, "sdxl": sdxl.PUBLISHED, "z-image": z_image.BASE}
"""The files with a family's published geometry."""
T5_TOKENS = 512
"""To which FLUX.1-dev's prompts are padded (model card)."""
PROMPT = "a photo of a woman in a blue coat, in the park, soft light"


@dataclass(frozen=True)
class RandomBase:
    base: Base
    parts: dict[str, BuiltPart]


class Bench:
    def __init__(self, folder: Path, tiny: bool) -> None:
        """`tiny`: every check at the size of the tiny bases, so that it takes a second or two on a CPU."""
        self.folder = folder
        self.tiny = tiny
        self._other: RandomBase | None = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.set_verbosity_error()
            library.disable_progress_bar()

    def describe(self) -> dict[str, Any]:
        """Return what the figures depend on: the device, its driver and memory."""
        described: dict[str, Any] = {"tiny": self.tiny, "device": "cpu", "cpu_threads": torch.get_num_threads()}
        if self.device.type == "cuda":
            gpu = torch.cuda.get_device_properties(self.device)
            described |= {
                "device": gpu.name,
                "compute_capability": f"{gpu.major}.{gpu.minor}",
                "total_gib": gib(gpu.total_memory),
                "driver": _driver(),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            }
        elif not self.tiny:
            return described | {"ok": False, "error": "no CUDA device found; with --tiny the checks also run on a CPU"}
        return described | {"ok": True}

    def size(self, real: int, tiny: int) -> int:
        return tiny if self.tiny else real

    @cached_property
    def flux(self) -> RandomBase:
        """FLUX.1-dev at its real geometry, in the host's memory as a base that was loaded, in the device's precision.

        With `tiny`, the same from the tiny base's configurations.
        """
        built = self._built("flux")
        if not self.tiny:
            built.base.parts.tokenizer_2.model_max_length = T5_TOKENS
        return built

    def other(self, family: str) -> RandomBase:
        """Return a base of this family as `flux` is one; the one of another family is forgotten."""
        if self._other is None or self._other.base.family.name != family:
            self._other = None
            self._other = self._built(family)
        return self._other

    def _built(self, name: str) -> RandomBase:
        family, tiny = FAMILIES[name], self.tiny_base(name)
        configs = read_configs(CONFIGS[name], tiny if self.tiny else None)
        dtype = memory.compute_dtype(self.device)
        parts, report = random_base.build(configs, tiny, self.device, family.dtypes(dtype))
        if isinstance(family, LatentDiffusion):
            parts = with_noise_schedule(tiny, parts)
        return RandomBase(Base(self.folder / name, family, parts, self.device, dtype), report)

    @cached_property
    def sd15(self) -> Path:
        """The folder of Stable Diffusion 1.5 at its real geometry, in float32."""
        tiny, folder = self.tiny_base("sd15"), self.folder / "sd15"
        if self.tiny:
            return tiny
        if not folder.exists():
            configs = read_configs(sd15.PUBLISHED, None)
            pipeline, _ = random_base.build(configs, tiny, self.device, {"default": torch.float32})
            unfinished = folder.with_name("sd15.part")
            pipeline.save_pretrained(unfinished)
            unfinished.rename(folder)
        return folder

    def tiny_base(self, family: str) -> Path:
        """Return the folder of a family's tiny base."""
        folder = self.folder / f"tiny-{family}"
        if not folder.exists():
            TINY[family](folder)
        return folder

    def photos(self, count: int, width_px: int, class_caption: str | None = None) -> list[Photo]:
        """Return drawn photos of one person, 3:4, with captions."""
        folder = self.folder / f"photos-{width_px}"
        folder.mkdir(exist_ok=True)
        photos = []
        for number, scene in enumerate(portrait.scenes(count, seed=0)):
            path = folder / f"{number}.jpg"
            if not path.exists():
                size = (width_px, width_px * 4 // 3)
                portrait.draw(portrait.Person.example(), scene, size).save(path, quality=92)
            photos.append(Photo(path, f"a photo of ohwx person, {scene.caption}", class_caption))
        return photos

    def lora(self, base: Base, rank: int) -> Path:
        """Return a LoRA file for the base with random weights in every layer that is trained by default."""
        path = self.folder / f"lora-{base.family.name}-{rank}.safetensors"
        if not path.exists():
            generator = torch.Generator("cpu").manual_seed(1)
            with base.family.new_lora(base.parts, rank, generator) as parameters:
                weights = {
                    name: (0.3 * random_base.fan_in_normal(parameter.shape, generator)).to(base.dtype)
                    for name, parameter in parameters.items()
                }
            lora_files.write(path, weights, {})
        return path


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, which torch does not tell."""
    asked: Sequence[str] = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip()
