"""Marks for tests that are about one family alone."""

from __future__ import annotations

import pytest

only_flux = pytest.mark.parametrize("family", ["flux"], indirect=True)
only_klein = pytest.mark.parametrize("family", ["klein"], indirect=True)
only_sd15 = pytest.mark.parametrize("family", ["sd15"], indirect=True)
