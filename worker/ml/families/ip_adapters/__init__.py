"""IP-Adapters by family."""

from __future__ import annotations

from worker.ml.families.ip_adapters import flux1, u_net
from worker.ml.families.ip_adapters.names import AdapterNames

NAMES: dict[str, AdapterNames] = {"flux": flux1.NAMES, "sd15": u_net.NAMES, "sdxl": u_net.NAMES}
