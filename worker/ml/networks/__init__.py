"""Networks that denoise nothing: Real-ESRGAN, which enlarges a picture by 2 or 4, with two back ends, and TripoSR.

upscaler.py              what both back ends are to their caller
real_esrgan.py           loads an upscaler for a back end
spandrel_backend.py      spandrel, the default
realesrgan_backend.py    the package realesrgan, an extra of the same name
functional_tensor.py     what that package needs to be imported beside a current torchvision
precision.py             float16 on a GPU, and float32 where float16 is not enough
tiny.py                  a tiny upscaler for tests
triposr/                 an object's shape and colours from one picture of it
"""
