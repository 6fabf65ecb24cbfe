"""IP-Adapters of FLUX.1, as XLabs publishes them, and as diffusers names them.

Facts follow diffusers: loaders/ip_adapter.py (`FluxIPAdapterMixin`), loaders/transformer_flux.py, and
pipelines/flux/pipeline_flux.py, which has a black picture with negative prompts.
"""

from worker.ml.families.ip_adapters.names import AdapterNames

NAMES = AdapterNames(
    prefixes={
        "ip_adapter_proj_model.": "image_proj",
        "double_blocks.": "ip_adapter",
        "image_proj.": "image_proj",
        "ip_adapter.": "ip_adapter",
    },
    layers={
        "processor.ip_adapter_double_stream_k_proj": "to_k_ip",
        "processor.ip_adapter_double_stream_v_proj": "to_v_ip",
    },
    first=0,
    step=1,
    projections=("proj.weight",),
    kinds="plain ones",
    argument=("joint_attention_kwargs", "ip_adapter_image_embeds"),
    against_is_black=True,
)
