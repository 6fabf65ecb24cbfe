"""Base models and upscalers imported from single files, without a hub.

    flux_names.py   Black Forest Labs' tensor names to diffusers'
    bases.py        single files to a folder in diffusers layout
    upscalers.py    official Real-ESRGAN weights to safetensors
    *.json          the configurations of the published models, which weights alone do not contain

`python -m worker.ml.single_files` runs one import in a process of its own, so that its memory is freed.
"""
