"""What a LoRA file says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping

from worker.ml.models import Base
from worker.ml.train.config import LoraConfig


def file_metadata(base: Base, config: LoraConfig, photo_count: int, given: Mapping[str, str]) -> dict[str, str]:
    """Return what a LoRA file says about itself, in the names that other tools show (modelspec, sd-scripts).

    `given` may hold `base` (the slug), `trigger_word`, `title` and `date` (ISO 8601), and nothing else, so that a
    person's name cannot get into a file. Raises ValueError for another key.
    """
    unknown = given.keys() - {"base", "trigger_word", "title", "date"}
    if unknown:
        raise ValueError(f"a LoRA file's metadata must not hold {sorted(unknown)}")
    slug, title = given.get("base", base.folder.name), given.get("title", "lora")
    largest = config.resolutions[-1]  # both names have room for one
    metadata = {
        **base.family.lora_metadata(base.parts),
        "base": slug,
        "family": base.family.name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": title,
        "modelspec.resolution": f"{largest}x{largest}",
        "ss_v2": "False",
        "ss_sd_model_name": slug,
        "ss_output_name": title,
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": str(config.rank),
        "ss_steps": str(config.steps),
        "ss_learning_rate": str(config.learning_rate),
        "ss_resolution": str((largest, largest)),
        "ss_total_batch_size": str(config.batch_size),
        "ss_caption_dropout_rate": str(config.caption_dropout),
        "ss_num_train_images": str(photo_count),
        "ss_seed": str(config.seed),
    }
    if "date" in given:
        metadata["modelspec.date"] = given["date"]
    if "trigger_word" in given:
        word = given["trigger_word"]
        metadata |= {
            "trigger_word": word,
            "modelspec.trigger_phrase": word,
            "ss_tag_frequency": json.dumps({f"1_{word}": {word: photo_count}}),
        }
    return metadata
