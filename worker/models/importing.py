"""Import a model from single files to MODELS_DIR. A separate process, `worker.ml.single_files`, reads the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import CommandRefused
from worker.models.converting import convert
from worker.models.manifest import Manifest, Origin, build_manifest
from worker.models.names import REMOVERS, UPSCALER_FILE, UPSCALERS, slug_path
from worker.models.partial_folder import install, locked_empty_partial
from worker.models.single_files import SINGLE_FILES

SCALES = {slug: scale for scale, slug in UPSCALERS.items()}


@dataclass(frozen=True)
class Network:
    """A model that is one network in one file."""

    called: str
    names: Mapping[str, str] | None
    """By the slugs that it may have, how its file is named; None: any slug, and the network decides."""


NETWORKS = {
    "upscaler": Network("an upscaler", dict.fromkeys(SCALES, UPSCALER_FILE)),
    "remover": Network("a background remover", REMOVERS),
    "triposr": Network("a mesh model", None),
}
"""By option."""


def import_files(
    models_dir: Path, slug: str, files: Mapping[str, Path], tokenizers: Path | None, configs: Path | None
) -> Manifest:
    """Create the model `slug` from these files. Raises CommandRefused, and then MODELS_DIR is unchanged."""
    path = slug_path(models_dir, slug)
    network = _network_of(slug, files)
    families = [] if network else _families_of(files, tokenizers)
    with locked_empty_partial(models_dir, slug, "delete it, or choose another name") as partial:
        convert(
            {
                "target": str(partial),
                "network": network,
                "families": {family: SINGLE_FILES[family].tokenizers for family in families},
                "files": {name: str(file) for name, file in files.items()},
                "tokenizers": str(tokenizers),
                "configs": str(configs) if configs else None,
                "scale": SCALES.get(slug),
                "name": (NETWORKS[network].names or {}).get(slug) if network else None,
            }
        )
        manifest = build_manifest(partial, Origin(source=", ".join(file.name for file in files.values())))
        install(partial, path, manifest)
    return manifest


def _network_of(slug: str, files: Mapping[str, Path]) -> str | None:
    """Return the option of a model that is one network, None for a base model. Raises CommandRefused."""
    for option, network in NETWORKS.items():
        is_named = network.names is not None and slug in network.names
        if is_named or option in files:
            if files.keys() != {option} or not (is_named or network.names is None):
                named = f", named {' or '.join(network.names)}" if network.names else ""
                raise CommandRefused(f"{network.called} is one file{named}: use only --{option} FILE")
            return option
    return None


def _families_of(files: Mapping[str, Path], tokenizers: Path | None) -> list[str]:
    """Return the families that are made of such files. Raises CommandRefused for no model's."""
    families = [family for family, made_of in SINGLE_FILES.items() if made_of.fit(files.keys())]
    if not families:
        raise CommandRefused(f"the files do not make a base model: {'; '.join(map(str, SINGLE_FILES.values()))}")
    if tokenizers is None:
        of_each = (" and ".join(f"{name}/" for name in SINGLE_FILES[family].tokenizers) for family in families)
        folders = ", or ".join(dict.fromkeys(of_each))
        raise CommandRefused(
            "--tokenizers DIR is missing: weights do not contain the tokenizer. DIR is a folder with "
            f"{folders}, as in the model's repository in diffusers layout"
        )
    return families
