"""The tiny, untrained models of the tests: the real architectures with random weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs

from worker import ml
from worker.demo.torch_environment import TORCH_ENVIRONMENT
from worker.models import UPSCALER_FILE, UPSCALERS

TINY_BASE = "tiny-flux"

REGISTER_TINY_BASE = """
insert into worker.base_models (slug, family, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
values ('tiny-flux', 'flux', '{train,lora}', '{64x64}', '{"steps": 4, "guidance": 3.5, "width": 64, "height": 64}', 0,
        'none: random weights', true)
on conflict do nothing
"""

BUILDERS = ("families/tiny/flux1.py", "families/tiny/parts.py", "kernels.py", "networks/tiny.py")
LIBRARIES = ("torch", "diffusers", "transformers")

ONE_THREAD = TORCH_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
"""For processes that compute with tiny models: threads would mostly wait for each other."""


class ModelsNotBuilt(RuntimeError):
    """The tiny models could not be built; the message ends with the output of the build."""


def build_tiny_models(folder: Path) -> None:
    """Build the base and the upscalers that are missing below `folder`, in the layout of MODELS_DIR."""
    from worker.ml.families.tiny import flux1 as flux_tiny
    from worker.ml.networks import tiny as upscaler_tiny

    if not (folder / TINY_BASE).exists():
        flux_tiny.build_tiny(folder / TINY_BASE)
    for scale, slug in UPSCALERS.items():
        if not (folder / slug).exists():
            (folder / slug).mkdir(parents=True)
            upscaler_tiny.build_tiny(folder / slug / UPSCALER_FILE, scale)


def cached_tiny_models() -> tuple[Path, bool]:
    """Return the folder with the tiny models in the user's cache, and whether they were built just now.

    Each version of the code and of the libraries that write them has its own folder. An interrupted build leaves no
    folder that looks complete. Raises ModelsNotBuilt.
    """
    cache = platformdirs.user_cache_path("likeness") / "demo"
    folder = cache / _fingerprint()
    if folder.exists():
        return folder, False
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    try:
        # In a separate process, so that Ctrl-C need not wait for an import of torch.
        built = subprocess.run(
            [sys.executable, "-m", "tests.tiny_models", str(unfinished)],
            capture_output=True,
            text=True,
            env=os.environ | ONE_THREAD,
            start_new_session=True,
        )
        if built.returncode != 0:
            raise ModelsNotBuilt(f"the tiny models could not be built:\n{built.stderr[-2000:]}")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, True


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name in BUILDERS:
        digest.update((Path(ml.__file__).parent / name).read_bytes())
    for library in LIBRARIES:
        digest.update(importlib.metadata.version(library).encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    build_tiny_models(Path(sys.argv[1]))
