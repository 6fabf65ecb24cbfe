"""Base models, upscalers and the mesh model imported from single files, without a hub.

    parts.py          reads, checks and writes a part of a base
    shared_parts.py   parts that several families share
    pickles.py        reads published weights that are pickles
    upscalers.py      official Real-ESRGAN weights to safetensors
    mesh.py           the official TripoSR checkpoint to safetensors

What is one family's own is in `families/single_files/`. `python -m worker.ml.single_files` runs one import in a process
of its own, so that its memory is freed.
"""
