"""IP-Adapters of U-Nets, as h94/IP-Adapter publishes them: plain, plus and full-face.

Facts follow diffusers: loaders/ip_adapter.py and loaders/unet.py.
"""

from worker.ml.families.ip_adapters.names import AdapterNames

NAMES = AdapterNames(
    prefixes={"image_proj.": "image_proj", "ip_adapter.": "ip_adapter"},
    layers={},
    first=1,  # self-attention, which has the even numbers, reads no pictures
    step=2,
    projections=("proj.weight", "proj.3.weight", "latents"),
    kinds="plain, plus and full-face ones",
    argument=("added_cond_kwargs", "image_embeds"),
    against_is_black=False,
)
