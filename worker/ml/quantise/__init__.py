"""Denoisers and text encoders in 8 and 4 bits, for devices that have no room for them in 16.

`linear.py` computes with quantised weights, `int8.py` and `nf4.py` are two ways to quantise them, and `forms.py`
exchanges the layers of a part for quantised ones and back.
"""
