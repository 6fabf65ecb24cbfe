"""Models on this pod's disk and in the model bucket. A pod never asks a public hub while it works.

A model here is a base model, a guide or an upscaler, never a LoRA. It is a folder `MODELS_DIR/{slug}`, and in the
bucket the prefix `models/base/{slug}/`. That bucket is BUCKET_MODELS, or one that installations share: MODELS_S3_*.

    names.py           slugs and paths            manifest.py    files, sizes, checksums, origin
    bases.py           the models of a pod        integrity.py   complete, undamaged
    partial_folder.py  unfinished downloads       locks.py       file locks between processes
    eviction.py        space for a new model
    hub/               from a hub to the disk
    push.py            from the disk to the bucket
    importing.py       from single files to the disk    converting.py  the process that reads foreign weights
    single_files.py    which files make which model
    inventory.py       every model and where it is stored

`worker run` needs bases.py and what it imports; only the commands import the modules from hub/ on.
"""

from worker.models.bases import BaseModels, JobModels
from worker.models.names import REMOVERS, UPSCALER_FILE, UPSCALERS, install_command

__all__ = ["REMOVERS", "UPSCALERS", "UPSCALER_FILE", "BaseModels", "JobModels", "install_command"]
