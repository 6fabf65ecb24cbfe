"""The weights of a part in host memory, which never change."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Masters:
    """Moves a part to a device and back. Its weights do not change there, so moving it back copies nothing.

    Tensors that were added to the part later, such as a LoRA's, move with it and are copied both ways.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._masters = {id(tensor): (tensor, tensor.data) for tensor in tensors_of(module)}
        self.on_device = False

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The weights in host memory."""
        return [master for _, master in self._masters.values()]

    @property
    def nbytes(self) -> int:
        """What they take on the device."""
        return sum(master.nbytes for master in self.tensors)

    def to_device(self, device: torch.device) -> None:
        """Copy the weights to the device: all of them, or none where one does not fit."""
        if self.on_device:
            return
        copies = [master.to(device, copy=True) for master in self.tensors]
        self.on_device = True  # also if what was added does not fit: `to_host` then frees the copies
        for (tensor, _), copy in zip(self._masters.values(), copies, strict=True):
            tensor.data = copy
        self._move_added(device)

    def to_host(self) -> None:
        """Free the device's copy."""
        if not self.on_device:
            return
        for tensor, master in self._masters.values():
            tensor.data = master
        self._move_added(torch.device("cpu"))
        self.on_device = False

    def _move_added(self, device: torch.device) -> None:
        for tensor in tensors_of(self._module):
            if id(tensor) not in self._masters:
                tensor.data = tensor.data.to(device)

    def within(self, module: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the tensors of a module inside of the part, each with its master."""
        return [self._masters[id(tensor)] for tensor in tensors_of(module) if id(tensor) in self._masters]

    def pin(self, module: torch.nn.Module) -> None:
        """Keep the weights of a module inside of the part, which is not on the device, in memory that is not paged.

        From there a copy to the device runs beside its computations. Where the system does not give enough of such
        memory, the rest stays where it is.
        """
        for tensor, master in self.within(module):
            if master.is_pinned():
                continue
            try:
                pinned = master.pin_memory()
            except RuntimeError:
                return
            self._masters[id(tensor)] = tensor, pinned
            tensor.data = pinned


def tensors_of(module: torch.nn.Module) -> Iterable[torch.Tensor]:
    """Return parameters and buffers, each once: tied weights stay tied."""
    return [*module.parameters(), *module.buffers()]
