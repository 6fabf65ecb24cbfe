"""Objects cut out of pictures, as the networks that make meshes want them.

errors.py        why a picture cannot be used, each reason a class of its own
flat.py          removes a background of one colour, without a model
network.py       removes any background by one of rembg's networks, an ONNX file that onnxruntime runs
foreground.py    crops to what is left, and pads it to a square on grey
cutting.py       all of it, for a picture file
"""
