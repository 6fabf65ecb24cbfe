"""Seconds and peak memory of each stage of making a model from a picture, for each quality.

    python -m bench.ml.mesh [--full] [--baked] [QUALITY …]

By default with the tiny network and a drawn picture. `--full` takes the official network's geometry with random
weights, set so that the surface is a ball: it downloads nothing, and costs what the official weights would, up to the
triangles of their surface. Runs on a GPU if there is one. Writes `results/mesh.json`, or `mesh-full.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.trees import RESULTS, ROOT
from worker.ml.mesh.making import RESOLUTIONS, Made, MeshRequest, make_mesh
from worker.ml.networks.triposr import loading
from worker.ml.networks.triposr.network import TripoSR
from worker.ml.networks.triposr.tiny import build_tiny
from worker.ml.protocol import Pixels

OFFICIAL = ROOT / "tests" / "data" / "triposr" / "official"
MIB = 2**20
STRAIGHT = 10.0
"""Where SiLU is nearly the identity."""
MIDDLE, SLOPE = 12.0, 10.8
"""Of the raw density: a ball of 0.6 of the space's radius reaches the threshold."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qualities", nargs="*", metavar="QUALITY", default=[*RESOLUTIONS], help=", ".join(RESOLUTIONS))
    parser.add_argument("--full", action="store_true", help="the official geometry, with random weights")
    parser.add_argument("--baked", action="store_true", help="a texture instead of colours of vertices")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        network = full(Path(name)) if asked.full else tiny(Path(name))
        make(network, "fast", asked.baked, Path(name))  # what is imported and compiled at first use is not measured
        found = {quality: figures(make(network, quality, asked.baked, Path(name))) for quality in asked.qualities}
    file = RESULTS / f"mesh{'-full' if asked.full else ''}{'-baked' if asked.baked else ''}.json"
    file.write_text(json.dumps({"device": str(network.device), **found}, indent=2) + "\n")
    for quality, each in found.items():
        print(f"\n{quality}: {each['faces']} faces, {each['seconds']} s")
        for stage in each["stages"]:
            print("  {stage:<22}{seconds:>8} s{host_mib:>8} MiB host{device_mib!s:>8} MiB device".format(**stage))


def tiny(folder: Path) -> TripoSR:
    build_tiny(folder / "tiny")
    return loading.load(folder / "tiny")


@torch.no_grad()
def full(folder: Path) -> TripoSR:
    """Return the official network with random weights whose density falls with the distance from the middle."""
    (folder / "config.yaml").write_text((OFFICIAL / "config.json").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = loading.build(folder)
    buffers = dict(network.named_buffers())
    network = network.to_empty(device=device).eval().requires_grad_(False)
    for name, buffer in buffers.items():
        network.get_buffer(name).copy_(buffer)
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(std=0.02)
    side = network.config.tokenizer.plane_size
    line = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    network.tokenizer.embeddings[:, 0] = line.square()[:, None] + line.square()
    network.backbone.proj_out.weight[0], network.backbone.proj_out.bias[0] = 0, 0
    upsample = network.post_processor.upsample
    upsample.weight[:, 0], upsample.weight[0, 0] = 0, 1
    upsample.bias[0] = 0
    first, *hidden, last = (layer for layer in network.decoder.layers if isinstance(layer, torch.nn.Linear))
    first.weight[0] = 0
    first.weight[0, :: network.config.post_processor.out_channels] = 1
    first.bias[0] = STRAIGHT
    for layer in hidden:
        layer.weight[0], layer.bias[0] = 0, 0
        layer.weight[0, 0] = 1
    last.weight[0] = 0
    last.weight[0, 0], last.bias[0] = -SLOPE, MIDDLE + SLOPE * STRAIGHT
    return network


def picture(side: int = 512) -> Pixels:
    """A disc of several colours on grey."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    pixels = np.full((side, side, 3), 127, np.uint8)
    disc = rows**2 + columns**2 < 0.42**2
    pixels[disc] = np.where((rows[disc] > 0)[:, None], (205, 70, 45), (245, 215, 90))
    return pixels


def make(network: TripoSR, quality: str, baked: bool, folder: Path) -> Made:
    request = MeshRequest(RESOLUTIONS[quality], "baked" if baked else "vertex")
    run = make_mesh(network, picture(), request, folder)
    while True:
        try:
            next(run)
        except StopIteration as end:
            made: Made = end.value
            return made


def figures(made: Made) -> dict[str, Any]:
    stages = [
        {
            "stage": stage.name,
            "seconds": round(stage.seconds, 2),
            "host_mib": None if stage.host_bytes is None else stage.host_bytes // MIB,
            "device_mib": None if stage.device_bytes is None else stage.device_bytes // MIB,
        }
        for stage in made.stages
    ]
    return {"faces": made.faces, "seconds": round(sum(stage.seconds for stage in made.stages), 2), "stages": stages}


if __name__ == "__main__":
    main()
