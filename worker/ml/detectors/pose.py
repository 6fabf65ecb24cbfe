"""The poses of all people in a photo: RT-DETR finds them, ViTPose their key points, and a skeleton is drawn of each.

Facts follow transformers: models/rt_detr/ and models/vitpose/, with their image processors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import RTDetrForObjectDetection, VitPoseForPoseEstimation

from worker.ml.detectors import crops, skeleton
from worker.ml.detectors.detector import Detector
from worker.ml.detectors.files import load_network
from worker.ml.detectors.photos import in_unit, normalised, resized
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.protocol import Pixels

PERSON_SCORE = 0.5
MAX_PEOPLE = 16
DETECTOR_PX = 640
"""Both sides of what the detector of people reads."""
MAX_SIDE_PX = 1024
"""The shorter side of a skeleton is not longer: no base draws more, and larger ones take time."""
COCO_POINTS = 17
PEOPLE = "people"
"""The folder of the detector of people, beside the files of the key points."""


class PoseDetector(Detector):
    def __init__(self, folder: Path, people: Any, points: Any) -> None:
        super().__init__(folder, people, points)
        self._people = people
        self._points = points

    def read(self, photo: Pixels, device: torch.device) -> Pixels:
        """Return a skeleton for each person. Raises BadInput if there is none."""
        height, width = photo.shape[:2]
        scale = min(1.0, MAX_SIDE_PX / min(height, width))
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        photo = resized(photo, height, width, Image.Resampling.BICUBIC)
        boxes = self.boxes(photo, device)
        people = [skeleton.from_coco(points) for points in self.points(photo, boxes, device)] if len(boxes) else []
        people = [points for points in people if np.isfinite(points).any()]
        if not people:
            raise BadInput(
                "no person was found in the control picture: use a photo that shows one, or a drawn skeleton with "
                "control_from 'map'"
            )
        return skeleton.draw(people, height, width)

    def boxes(self, photo: Pixels, device: torch.device) -> crops.Boxes:
        """Return the boxes of people, the surest first."""
        fitted = resized(photo, DETECTOR_PX, DETECTOR_PX, Image.Resampling.BILINEAR)
        found = self._people(pixel_values=in_unit(fitted[None], device))
        scores, labels = found.logits[0].sigmoid().max(dim=1)
        person = self._people.config.label2id["person"]
        sure = [int(i) for i in scores.argsort(descending=True) if labels[i] == person and scores[i] >= PERSON_SCORE]
        height, width = photo.shape[:2]
        x, y, across, down = found.pred_boxes[0, sure[:MAX_PEOPLE]].double().cpu().numpy().T
        return np.stack([(x - across / 2) * width, (y - down / 2) * height, across * width, down * height], axis=1)

    def points(self, photo: Pixels, boxes: crops.Boxes, device: torch.device) -> list[skeleton.Points]:
        """Return COCO's 17 points of the person in each box; NaN for those that are not seen."""
        height, width = self._points.config.backbone_config.image_size
        around = [crops.around(box, width / height) for box in boxes]
        inputs = np.stack([crops.cropped(photo, crop, height, width) for crop in around])
        heatmaps = self._points(pixel_values=normalised(inputs, device)).heatmaps.double().cpu().numpy()
        return [crops.peaks(maps, crop) for maps, crop in zip(heatmaps, around, strict=True)]


def load_pose(folder: Path) -> PoseDetector:
    """Load a detector of poses on the CPU. Raises ModelUnreadable, naming the folder."""
    points = load_network(folder, VitPoseForPoseEstimation, folder.name)
    people = load_network(folder / PEOPLE, RTDetrForObjectDetection, f"{PEOPLE} of {folder.name}")
    if points.config.num_labels != COCO_POINTS or points.config.backbone_config.num_experts != 1:
        raise ModelUnreadable(f"{folder.name} is for other points than COCO's {COCO_POINTS}, which is unsupported")
    if "person" not in people.config.label2id:
        raise ModelUnreadable(f"{PEOPLE} of {folder.name} does not find people: its labels have no person")
    return PoseDetector(folder, people, points)
