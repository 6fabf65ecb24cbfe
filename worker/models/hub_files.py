"""Which files of a hub's repository make a base model.

A repository in diffusers layout often holds the same weights several times: as pickles, in other precisions, for other
frameworks, and as one single file at its top. Taken are the parts that `model_index.json` names, each with its
configuration, its tokenizer's files and its plain safetensors weights, and the licence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from worker.errors import CommandRefused

INDEX = "model_index.json"
NOT_LOADED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Parts that no architecture of this worker loads."""
_LICENCE = re.compile(r"LICEN[CS]E[^/]*", re.IGNORECASE)
_SUPPORT = re.compile(r"(?!.*\.safetensors\.)(?!(.*/)?\.).*\.(json|txt|model)")  # no editor's hidden copies
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
_SHARDS = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index\.json")
_ANY_WEIGHTS = re.compile(r".*\.(bin|ckpt|pt|pth|safetensors|msgpack|h5|onnx)")


def wanted_files(names: Collection[str], index_json: bytes, repo: str) -> list[str]:
    """The files to take, in order. Raises CommandRefused where some part has no weights that may be loaded."""
    wanted = [INDEX, *(name for name in sorted(names) if _LICENCE.fullmatch(name))]
    for part in parts_of(index_json, repo):
        inside = {name.removeprefix(f"{part}/"): name for name in sorted(names) if name.startswith(f"{part}/")}
        if not inside:
            raise CommandRefused(f"{repo} is incomplete: its {INDEX} names {part}, and there is no such folder")
        weights = [name for name in inside if _WEIGHTS.fullmatch(name)]
        others = [name for name in inside if _ANY_WEIGHTS.fullmatch(name) and name not in weights]
        if others and not weights:
            raise CommandRefused(
                f"{repo} has no plain safetensors weights for {part}, only {', '.join(others[:3])}: pickles are never "
                "loaded; look for a repository or a revision (--revision) with model.safetensors in it"
            )
        wanted += [
            whole
            for name, whole in inside.items()
            if name in weights or _SHARDS.fullmatch(name) or _SUPPORT.fullmatch(name)
        ]
    return wanted


def parts_of(index_json: bytes, repo: str) -> list[str]:
    """The parts of a pipeline that are loaded. Raises CommandRefused when this is no `model_index.json`."""
    try:
        index = json.loads(index_json)
        return [
            name
            for name, kind in index.items()
            if isinstance(kind, list) and None not in kind and name not in NOT_LOADED
        ]
    except (ValueError, AttributeError) as error:
        raise CommandRefused(f"the {INDEX} of {repo} cannot be read") from error
