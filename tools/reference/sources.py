"""docs/reference/sources.md: every source file and what it says about itself."""

from __future__ import annotations

import ast
from pathlib import Path

from tools.reference.markdown import code, page, table

ROOT = Path(__file__).parents[2]

INTRODUCTION = """
One idea per file; its first sentence says which. Imports point one way, `cli` → `commands` → `queue` → `pod` →
`handlers` → (`guard`, `gpu`, `models`, `storage`, `jobs`) → `database` → `errors`, and a tool checks it. `ml` knows
nothing of the rest, and in a pod only the GPU process loads it.
"""

FOLDERS = (
    ("worker", "the entry point, the settings, what every part uses, and the claim loop"),
    ("worker/pod", "what a pod does around the claim loop"),
    ("worker/pod/housekeeping", "what a pod does beside its jobs, one file per duty"),
    ("worker/jobs", "a started job, its lease, its wording"),
    ("worker/handlers", "one file per kind of job"),
    ("worker/guard", "consent, and the screening of prompts"),
    ("worker/gpu", "the GPU process, seen from both sides"),
    ("worker/ml", "training, generation and meshes: paths and numbers in, paths and numbers out"),
    ("worker/ml/families", "one file per model family: all that a family does in its own way"),
    ("worker/ml/families/tiny", "tiny, untrained bases of each family"),
    ("worker/ml/families/lora", "what each family has of its own in LoRA files"),
    ("worker/ml/families/single_files", "what each family has of its own in published single files"),
    ("worker/ml/families/controlnets", "the control networks of each sort of denoiser"),
    ("worker/ml/families/ip_adapters", "what each family has of its own in IP-Adapters"),
    ("worker/ml/guides", "what changes each evaluation of a denoiser"),
    ("worker/ml/adapters", "LoRA files, and LoRAs on a denoiser"),
    ("worker/ml/draw", "the loop that draws pictures"),
    ("worker/ml/train", "the loop that trains LoRAs"),
    ("worker/ml/networks", "models that denoise nothing"),
    ("worker/ml/networks/triposr", "an object's shape and colours from one picture of it"),
    ("worker/ml/cutout", "objects cut out of pictures"),
    ("worker/ml/mesh", "a 3D model from an object's shape and colours"),
    ("worker/ml/single_files", "published weights in single files"),
    ("worker/models", "base models on disk and in the bucket"),
    ("worker/models/hub", "base models from a public hub"),
    ("worker/storage", "the object store, and the pod's own disk"),
    ("worker/database", "connections of pods and of the database owner, migrations, logins"),
    ("worker/commands", "one file per command"),
    ("worker/commands/checks", "what `worker doctor` checks"),
    ("sql", "applied in the order of `worker/database/schema/migrate.py`, again whenever one changes"),
    ("sql/migrations", "applied once each, in order"),
)
"""Without the demo, which is an app of its own and not a part of a pod."""


def sources_page() -> str:
    """Return the page, with a table for each folder."""
    return page("Source files", INTRODUCTION, *(_section(folder, what) for folder, what in FOLDERS))


def _section(folder: str, what: str) -> str:
    paths = [path for path in sorted((ROOT / folder).iterdir()) if path.suffix in (".py", ".sql")]
    described = [(path, _first_sentence(path)) for path in paths]
    rows = [[code(path.name), sentence] for path, sentence in described if sentence]
    return f"## {folder}\n\n{what[0].upper()}{what[1:]}.\n\n{table(['File', 'Is'], rows)}"


def _first_sentence(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        about = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = text.splitlines()
        end = next((place for place, line in enumerate(lines) if not line.startswith("-- ")), len(lines))
        about = " ".join(line.removeprefix("-- ") for line in lines[:end])
    return " ".join(about.partition("\n\n")[0].split())
