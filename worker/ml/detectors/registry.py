"""Opening a detector, by the kind of map that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.ml.detectors.depth import load_depth
from worker.ml.detectors.detector import Detector
from worker.ml.detectors.pose import load_pose
from worker.ml.errors import ModelUnreadable

LOADERS: Mapping[str, Callable[[Path], Detector]] = {"depth": load_depth, "pose": load_pose}
"""By what is detected."""


def open_detector(folder: Path, kind: str) -> Detector:
    """Return the detector in a folder, on the CPU. Raises ModelUnreadable: missing, damaged, or for another kind."""
    if kind not in LOADERS:
        raise ModelUnreadable(f"{folder.name} cannot detect {kind}; supported: {', '.join(LOADERS)}")
    return LOADERS[kind](folder)
