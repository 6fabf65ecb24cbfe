"""The precision of parts, where it is the same in several families."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class FullAutoencoder:
    """Of families whose autoencoder's activations can leave the range of float16."""

    autoencoder: str

    def dtypes(self, compute: torch.dtype) -> Mapping[str, torch.dtype]:
        """Return float32 for the autoencoder beside float16."""
        return {"default": compute, self.autoencoder: torch.float32 if compute == torch.float16 else compute}
