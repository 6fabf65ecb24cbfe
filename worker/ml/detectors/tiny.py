"""Untrained detectors of the real architectures, for tests: what they find means nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from worker.ml.detectors.pose import COCO_POINTS, PEOPLE


def build_depth(folder: Path, seed: int = 0) -> None:
    """Write a detector of depths to the folder."""
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)  # module constructors use the global generator only
        network = DepthAnythingForDepthEstimation(config)
        for weights in network.parameters():
            weights += 0.05 * torch.randn_like(weights)  # or all depths are 0
        network.save_pretrained(folder)


def build_pose(folder: Path, *, finds_people: bool = True, seed: int = 0) -> None:
    """Write a detector of poses to the folder. Everything that it looks at is a person, or nothing is."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        points = VitPoseForPoseEstimation(
            VitPoseConfig(
                backbone_config=VitPoseBackboneConfig(
                    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, out_indices=[2]
                ),
                num_labels=COCO_POINTS,
            )
        )
        points.head.conv.bias += 1.0  # every point is seen somewhere
        people = RTDetrForObjectDetection(_rt_detr())
        for layer in (*people.model.decoder.class_embed, people.model.enc_score_head):
            layer.bias.copy_(torch.tensor([5.0 if finds_people else -5.0, -5.0]))
        points.save_pretrained(folder)
        people.save_pretrained(folder / PEOPLE)


def _rt_detr() -> RTDetrConfig:
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    return RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_queries=3,
        id2label={0: "person", 1: "other"},
        label2id={"person": 0, "other": 1},
    )
