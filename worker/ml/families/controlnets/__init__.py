"""The ControlNets that this worker can use: a file for each sort of denoiser, and a line here."""

from worker.ml.families.controlnets.flux1 import FluxControl
from worker.ml.families.controlnets.u_net import UNetControl, UnionControl
from worker.ml.families.controlnets.z_image import ZImageControl
from worker.ml.guides.controlnet import ControlNet

NETWORKS: dict[str, type[ControlNet]] = {
    network.diffusers_class.__name__: network for network in (UNetControl, UnionControl, FluxControl, ZImageControl)
}
"""By the `_class_name` of their configuration."""
