"""A denoiser whose blocks stay in host memory, and are on the device only while they compute."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch.utils.hooks import RemovableHandle

from worker.ml.masters import Masters, tensors_of

AT_ONCE = 2
"""Blocks on the device: while one computes, the next is copied."""

_Copies = list[torch.Tensor]


class Streamed(Masters):
    """Moves what is outside of the blocks; each block brings its own weights when it is called, and the next one's.

    Which is next is learnt from the call before. Tensors that were added to a block, such as a LoRA's, stay on the
    device. This is for drawing: a backward pass would need weights of blocks that have left.
    """

    def __init__(self, whole: Masters, module: torch.nn.Module, blocks: Sequence[torch.nn.Module]) -> None:
        """`whole` has the masters of the module with its blocks. None of them may be on the device."""
        super().__init__(module)
        self._whole = whole
        self._blocks = {block: whole.within(block) for block in blocks}
        inside = {id(tensor) for pairs in self._blocks.values() for tensor, _ in pairs}
        self._masters = {key: pair for key, pair in self._masters.items() if key not in inside}
        self._inside = inside
        self._hooks: list[RemovableHandle] = []
        self._after: dict[torch.nn.Module, torch.nn.Module] = {}
        self._last: torch.nn.Module | None = None
        self._coming: tuple[torch.nn.Module, _Copies] | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def nbytes(self) -> int:
        """What they take on the device at most."""
        sizes = [sum(master.nbytes for _, master in pairs) for pairs in self._blocks.values()]
        return super().nbytes + AT_ONCE * max(sizes)

    def to_device(self, device: torch.device) -> None:
        """Copy what is outside of the blocks, and have each block bring what is its own."""
        if self.on_device:
            return
        super().to_device(device)
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pin()
        for block in self._blocks:
            self._hooks.append(block.register_forward_pre_hook(partial(self._arrive, device)))
            self._hooks.append(block.register_forward_hook(self._leave, always_call=True))

    def _pin(self) -> None:
        for block in self._blocks:
            self._whole.pin(block)
            self._blocks[block] = self._whole.within(block)

    def to_host(self) -> None:
        """Free the device's copies."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._coming = self._last = self._stream = None
        super().to_host()

    def _move_added(self, device: torch.device) -> None:
        """Move what was added outside of blocks and in them."""
        for tensor in tensors_of(self._module):
            if id(tensor) not in self._masters and id(tensor) not in self._inside:
                tensor.data = tensor.data.to(device)

    def _arrive(self, device: torch.device, block: torch.nn.Module, *_arguments: object) -> None:
        """Give a block its weights on the device, and begin to copy those of the next."""
        coming, self._coming = self._coming, None
        copies = coming[1] if coming is not None and coming[0] is block else self._copied(block, device)
        if self._stream is not None:
            torch.cuda.current_stream(device).wait_stream(self._stream)
        for (tensor, _), copy in zip(self._blocks[block], copies, strict=True):
            tensor.data = copy
        for added in tensors_of(block):
            if id(added) not in self._inside and added.device != device:  # a LoRA that was attached to it
                added.data = added.data.to(device)
        if self._last is not None:
            self._after[self._last] = block
        self._last = block
        if following := self._after.get(block):
            self._coming = following, self._copied(following, device)

    def _copied(self, block: torch.nn.Module, device: torch.device) -> _Copies:
        """Return copies of a block's weights on the device, which on a GPU are made on a stream of their own.

        It first waits for what was computed so far, with the weights whose memory these may take: so no more blocks
        than AT_ONCE are there, however far the CPU is ahead.
        """
        masters = [master for _, master in self._blocks[block]]
        if self._stream is None:
            return [master.to(device, copy=True) for master in masters]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            return [master.to(device, copy=True, non_blocking=True) for master in masters]

    def _leave(self, block: torch.nn.Module, *_arguments: object) -> None:
        """Free the weights of a block on the device."""
        for tensor, master in self._blocks[block]:
            tensor.data = master
