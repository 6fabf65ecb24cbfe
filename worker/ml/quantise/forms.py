"""The forms of a denoiser: plain, and quantised ones, which are made once and kept in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from worker.ml.masters import Masters
from worker.ml.memory import PLAIN
from worker.ml.phases import Phase
from worker.ml.quantise.int8 import Int8Linear
from worker.ml.quantise.linear import QuantisedLinear
from worker.ml.quantise.nf4 import Nf4Linear, has_bitsandbytes

if TYPE_CHECKING:
    from worker.ml.models import Base

_METHODS: dict[str, type[Int8Linear | Nf4Linear]] = {"int8": Int8Linear, "nf4": Nf4Linear}
FORMS = (PLAIN, *_METHODS)
"""From the most exact to the smallest."""


class Forms:
    """The linear layers of a denoiser's blocks, which are exchanged for quantised ones and back.

    `blocks` are names that a layer's own must contain between dots. What is not in them stays as it is, and is the same
    in all forms: first and last layers, embeddings of time and text, norms, convolutions.
    """

    def __init__(self, denoiser: torch.nn.Module, blocks: Sequence[str]) -> None:
        self._denoiser = denoiser
        self._plain = {
            name: layer
            for name, layer in denoiser.named_modules()
            if isinstance(layer, torch.nn.Linear) and set(blocks).intersection(name.split(".")[:-1])
        }
        self._quantised: dict[str, dict[str, QuantisedLinear]] = {}
        self._masters = {PLAIN: Masters(denoiser)}
        self.current = PLAIN

    @property
    def masters(self) -> Masters:
        """What moves the denoiser in its current form."""
        return self._masters[self.current]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The weights of all forms in host memory."""
        return [tensor for masters in self._masters.values() for tensor in masters.tensors]

    def offered(self, forms: Sequence[str]) -> list[str]:
        """Return those of these forms that this denoiser can have here, in their order."""
        return [form for form in forms if form == PLAIN or (self._plain and (form != "nf4" or has_bitsandbytes()))]

    def is_made(self, form: str) -> bool:
        """Return True if using this form does not need to quantise."""
        return form == PLAIN or form in self._quantised

    def nbytes(self, form: str) -> int:
        """Return the size of the denoiser's weights in this form, whether or not it is made."""
        plain = self._masters[PLAIN].nbytes
        if form == PLAIN:
            return plain
        return plain - sum(layer.weight.nbytes for layer in self._plain.values()) + self._quantised_bytes(form)

    def _quantised_bytes(self, form: str) -> int:
        return sum(_METHODS[form].nbytes(layer) for layer in self._plain.values())

    def work_bytes(self, form: str) -> int:
        """Return what computing in this form needs besides what the plain one does: a layer's weights made wide."""
        if form == PLAIN:
            return 0
        return max(layer.weight.nbytes for layer in self._plain.values())

    def use(self, form: str, device: torch.device, make_room: Callable[[int], bool]) -> None:
        """Take the denoiser off the device, and give it this form; it must have no LoRA attached.

        A quantised form is made on the device, a layer at a time. `make_room` is asked first for the host memory that
        it takes, and returns whether there is enough; if not, the other quantised forms are dropped.
        """
        if form == self.current:
            return
        self.masters.to_host()
        self._exchange(PLAIN, self._plain)
        if form == PLAIN:
            return
        if form not in self._quantised:
            if not make_room(self._quantised_bytes(form)):
                self._quantised.clear()
                self._masters = {PLAIN: self._masters[PLAIN]}
            self._quantised[form] = {name: _METHODS[form](layer, device) for name, layer in self._plain.items()}
        self._exchange(form, self._quantised[form])

    def _exchange(self, form: str, layers: Mapping[str, torch.nn.Linear]) -> None:
        for name, layer in layers.items():
            self._denoiser.set_submodule(name, layer, strict=True)
        if form not in self._masters:
            self._masters[form] = Masters(self._denoiser)
        self.current = form


def take_form(base: Base, form: str) -> Iterator[Phase]:
    """Give a base's denoiser this form, and say so if that takes its time. It must have no LoRA attached."""
    if base.must_quantise(form):
        yield Phase(f"quantising the {base.family.denoiser} to {form}")
    base.use(form)
