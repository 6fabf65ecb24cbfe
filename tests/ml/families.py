"""Marks for tests that are about one family alone."""

from __future__ import annotations

import pytest

only_flux = pytest.mark.parametrize("family", ["flux"], indirect=True)
only_klein = pytest.mark.parametrize("family", ["klein"], indirect=True)
only_qwen_image = pytest.mark.parametrize("family", ["qwen-image"], indirect=True)
only_sd15 = pytest.mark.parametrize("family", ["sd15"], indirect=True)
only_sdxl = pytest.mark.parametrize("family", ["sdxl"], indirect=True)
only_z_image = pytest.mark.parametrize("family", ["z-image"], indirect=True)
only_u_net = pytest.mark.parametrize("family", ["sd15", "sdxl"], indirect=True)
