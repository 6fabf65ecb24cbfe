"""Detectors: models that make the map of a photo which a control network reads, such as a skeleton or depths.

One file a kind of map; `registry.py` opens one from its folder. They know no family: a map is the same for all.
"""
