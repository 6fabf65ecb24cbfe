"""Base models and upscalers out of the single files that people have, without a hub.

    flux_names.py   Black Forest Labs' tensor names to diffusers'
    bases.py        single files to a folder in diffusers layout
    upscalers.py    official Real-ESRGAN weights to safetensors
    *.json          the configurations of the published models, which their weights alone do not tell

`python -m worker.ml.single_files` does one job in a process of its own, which goes with its memory.
"""
