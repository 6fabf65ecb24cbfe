"""Select the files of a hub's repository that make a base model.

A repository in diffusers layout often contains the same weights several times: as pickles, in other precisions, for
other frameworks, and as a single file at the top. Selected are the licence and the parts that `model_index.json` names,
each with its configuration, the files of its tokenizer and its plain safetensors weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from worker.errors import CommandRefused, truncate_list

INDEX = "model_index.json"
IGNORED_PARTS = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Parts that this worker does not load for any architecture."""
_LICENCE = re.compile(r"LICEN[CS]E[^/]*", re.IGNORECASE)
_SUPPORT = re.compile(
    r"(?!.*\.safetensors\.)(?!(.*/)?\.).*\.(json|txt|model|jinja)"
)  # without hidden copies, which editors leave
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
_SHARDS = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index\.json")
_ANY_WEIGHTS = re.compile(r".*\.(bin|ckpt|pt|pth|safetensors|msgpack|h5|onnx)")


def select_files(names: Collection[str], index_json: bytes, repo: str) -> list[str]:
    """Return the files to download, in order. Raises CommandRefused if a part has no weights that may be loaded."""
    selected = [INDEX, *(name for name in sorted(names) if _LICENCE.fullmatch(name))]
    for part in pipeline_parts(index_json, repo):
        inside = {name.removeprefix(f"{part}/"): name for name in sorted(names) if name.startswith(f"{part}/")}
        if not inside:
            raise CommandRefused(f"{repo} is incomplete: its {INDEX} names {part}, but it has no such folder")
        weights = [name for name in inside if _WEIGHTS.fullmatch(name)]
        others = [name for name in inside if _ANY_WEIGHTS.fullmatch(name) and name not in weights]
        if others and not weights:
            raise CommandRefused(
                f"{repo} lacks plain safetensors weights for {part}: it has {truncate_list(others)}, and pickles are "
                "never loaded; choose a repository or a revision (--revision) with model.safetensors"
            )
        selected += [
            path
            for name, path in inside.items()
            if name in weights or _SHARDS.fullmatch(name) or _SUPPORT.fullmatch(name)
        ]
    return selected


def pipeline_parts(index_json: bytes, repo: str) -> list[str]:
    """Return the parts of a pipeline that are loaded. Raises CommandRefused if the index cannot be read."""
    try:
        index = json.loads(index_json)
        return [
            name
            for name, kind in index.items()
            if isinstance(kind, list) and None not in kind and name not in IGNORED_PARTS
        ]
    except (ValueError, AttributeError) as error:
        raise CommandRefused(f"the {INDEX} of {repo} cannot be read: choose another repository or revision") from error
