"""`worker demo` with the tiny random base: the same steps in a fraction of the time. Run as a module."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.tiny_models import REGISTER_TINY_BASE, TINY_BASE, cached_tiny_models
from worker.demo.config import DemoConfig, with_mesh, with_uno
from worker.demo.drawing import portrait
from worker.demo.run import main


def _link_tiny_models(folder: Path) -> None:
    models, _ = cached_tiny_models()
    folder.mkdir()
    for model in models.iterdir():
        (folder / model.name).symlink_to(model)


TINY = DemoConfig(
    base=TINY_BASE,
    register=REGISTER_TINY_BASE,
    provide_models=_link_tiny_models,
    description="untrained: random weights in FLUX's layout",
    # For an untrained base: FLUX's own 1e-4 would show almost nothing.
    training={"steps": 200, "rank": 16, "learning_rate": 2e-3, "resolution": 96, "seed": 1},
    picture_settings={"steps": 4, "guidance": 3.5, "width": 96, "height": 128},
    prompts=("photo of {who}, in front of a plain wall", "photo of {who}, at the beach"),
    pictures=2,
    long_request={"num_images": 16, "steps": 100, "width": 96, "height": 128},
)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from threads, which would wait for each other
    portrait.PHOTO_SIZE = (378, 504)  # a sixty-fourth of a phone's pixels, which test_portrait.py looks at
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    config = with_mesh(with_uno(TINY)) if arguments.all else TINY
    sys.exit(main(arguments.output, arguments.photos, keep=arguments.keep, config=config))
