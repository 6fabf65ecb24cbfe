"""TripoSR: an object's shape and colours from one picture of it (Tochilkin et al. 2024, arXiv 2403.02151).

    config.py        the model's configuration, read from config.yaml or config.json
    vit.py           the vision transformer that reads the picture
    transformer.py   the transformer whose triplane tokens attend to the picture's
    triplane.py      learned tokens of three planes, and their enlargement
    field.py         density and colour at a point, from three planes and a decoder
    grid.py          densities on a regular grid, chunk by chunk
    cameras.py       rays of cameras that look at the object
    renderer.py      pictures of a field by volume rendering
    network.py       all of it: from a picture to a field
    loading.py       reads a folder with a configuration and .safetensors weights
    tiny.py          a tiny network for tests and the demo

World coordinates are those of the official program: a cube of ±radius around the origin, x towards the camera that took
the picture, y to its right, z up. Module names are the official checkpoint's.
"""
