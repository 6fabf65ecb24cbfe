"""Parts that are a pipeline of diffusers, as in most families."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worker.ml.protocol import Parts


class PipelineParts:
    """Of families whose `load` returns a pipeline."""

    def modules(self, parts: Parts) -> Mapping[str, torch.nn.Module]:
        """Return the parts with weights, by name."""
        return {name: part for name, part in parts.components.items() if isinstance(part, torch.nn.Module)}
