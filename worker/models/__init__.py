"""Base models: from this pod's disk, else from the model bucket, never from a public hub while it works.

A model is a folder `MODELS_DIR/{slug}`, in the bucket `models/base/{slug}/`. Upscalers are kept like bases.

    names.py      slugs and where they lie          manifest.py   files, sizes, checksums, origin
    bases.py      what a pod has, and fetching      locks.py      who uses and who brings a model
    eviction.py   what is evicted for one that comes
    pull.py       from a hub to the disk            hub_files.py  which files of a repository
    push.py       from the disk to the bucket       importing.py  from single files to the disk
    overview.py   what is where

Fetching needs what `worker run` needs; the modules of the commands are imported by them alone.
"""

from worker.models.bases import BaseModels, JobModels
from worker.models.names import UPSCALER_FILE, UPSCALERS, install_command

__all__ = ["UPSCALERS", "UPSCALER_FILE", "BaseModels", "JobModels", "install_command"]
