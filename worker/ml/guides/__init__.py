"""Guides: what changes each evaluation of a denoiser while a picture is drawn (`Guide` in `protocol.py`).

One file a method: reference pictures through an adapter or in the context, also with UNO's LoRA; control pictures
through a second network. `registry.py` opens one from its folder. What differs by family is in `families/controlnets/`
and `families/ip_adapters/`. There are more than a dozen files: each method has one, some a second for its files.
"""
