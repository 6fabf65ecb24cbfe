"""The forms of a part: plain and quantised ones, which are made once and kept in host memory, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from worker.ml.masters import Masters
from worker.ml.memory import PLAIN, part_in_words
from worker.ml.phases import Phase, Underway
from worker.ml.quantise.int8 import Int8Linear
from worker.ml.quantise.linear import QuantisedLinear
from worker.ml.quantise.nf4 import Nf4Linear, has_bitsandbytes
from worker.ml.streamed import AT_ONCE, Streamed

if TYPE_CHECKING:
    from worker.ml.models import Base

_METHODS: dict[str, type[Int8Linear | Nf4Linear]] = {"int8": Int8Linear, "nf4": Nf4Linear}
WHOLE = (PLAIN, *_METHODS)
"""Those with all weights on the device while the part computes, from the most exact to the smallest."""
_STREAMED = "streamed "
"""Before the name of a form: its blocks are on the device only while they compute. See `streamed.py`."""
FORMS = (*WHOLE, *(_STREAMED + method for method in _METHODS))
"""From the most wanted to the smallest. Streaming costs a copy of the weights a step, so it is after all others; then
int8 is before nf4, as little of either is on the device."""
ENCODER_BLOCKS = ("block", "layers")
"""What the lists of blocks are called in text encoders: T5's, and all others'."""


def is_streamed(form: str) -> bool:
    """Return True for a form whose blocks are on the device only while they compute, which cannot be trained on."""
    return form.startswith(_STREAMED)


def _layers_of(form: str) -> str:
    """Return how the layers are in a form, whole or streamed."""
    return form.removeprefix(_STREAMED)


class Forms:
    """The linear layers of a part's blocks, which are exchanged for quantised ones and back.

    `blocks` are names that a layer's own must contain between dots. What is not in them stays as it is, and is the same
    in all forms: first and last layers, embeddings of time and text, norms, convolutions.
    """

    def __init__(self, part: torch.nn.Module, blocks: Sequence[str]) -> None:
        self._part = part
        self._plain = {
            name: layer
            for name, layer in part.named_modules()
            if isinstance(layer, torch.nn.Linear) and set(blocks).intersection(name.split(".")[:-1])
        }
        self._block_bytes = {
            name: Masters(block).nbytes
            for name, block in part.named_modules()
            if set(blocks).intersection(name.split(".")[-2:-1])
        }
        self._quantised: dict[str, dict[str, QuantisedLinear]] = {}
        self._masters = {PLAIN: Masters(part)}
        self.current = PLAIN

    @property
    def masters(self) -> Masters:
        """What moves the part in its current form."""
        return self._masters[self.current]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The weights of all forms in host memory."""
        return [tensor for masters in self._masters.values() for tensor in masters.tensors]

    def offered(self, forms: Sequence[str]) -> list[str]:
        """Return those of these forms that this part can have here, in their order."""
        return [form for form in forms if self._is_possible(form)]

    def _is_possible(self, form: str) -> bool:
        layers = _layers_of(form)
        quantises = layers == PLAIN or (bool(self._plain) and (layers != "nf4" or has_bitsandbytes()))
        return quantises and (not is_streamed(form) or bool(self._block_bytes))

    def is_made(self, form: str) -> bool:
        """Return True if using this form does not need to quantise."""
        layers = _layers_of(form)
        return layers == PLAIN or layers in self._quantised

    def nbytes(self, form: str) -> int:
        """Return what the part's weights take on the device in this form, whether or not it is made."""
        layers = _layers_of(form)
        everything = self._masters[PLAIN].nbytes - self._saved_bytes(layers)
        if not is_streamed(form):
            return everything
        blocks = [size - self._saved_bytes(layers, f"{name}.") for name, size in self._block_bytes.items()]
        return everything - sum(blocks) + AT_ONCE * max(blocks)

    def _saved_bytes(self, layers: str, within: str = "") -> int:
        """Return what layers whose names begin so are smaller by."""
        if layers == PLAIN:
            return 0
        chosen = [layer for name, layer in self._plain.items() if name.startswith(within)]
        return sum(layer.weight.nbytes - _METHODS[layers].nbytes(layer) for layer in chosen)

    def work_bytes(self, form: str) -> int:
        """Return what computing in this form needs besides what the plain one does: a layer's weights made wide."""
        if _layers_of(form) == PLAIN:
            return 0
        return max(layer.weight.nbytes for layer in self._plain.values())

    def quantise(self, form: str, device: torch.device, make_room: Callable[[int], bool]) -> Iterator[None]:
        """Make the quantised layers of this form on the device, and yield after each. The part must be plain.

        `make_room` is asked first for the host memory that they take, and returns whether there is enough; if not, the
        other quantised forms of this part are dropped. What is not made to the end is forgotten.
        """
        method = _METHODS[_layers_of(form)]
        if not make_room(sum(method.nbytes(layer) for layer in self._plain.values())):
            self._quantised.clear()
            self._masters = {PLAIN: self._masters[PLAIN]}
        made: dict[str, QuantisedLinear] = {}
        for name, layer in self._plain.items():
            made[name] = method(layer, device)
            yield
        self._quantised[_layers_of(form)] = made

    def use(self, form: str) -> None:
        """Take the part off the device, and give it this form, which is made; it must have no LoRA attached."""
        if form == self.current:
            return
        self.masters.to_host()
        self._exchange(self._plain)
        layers = _layers_of(form)
        if layers != PLAIN:
            self._exchange(self._quantised[layers])
        if layers not in self._masters:
            self._masters[layers] = Masters(self._part)
        if form not in self._masters:
            blocks = [self._part.get_submodule(name) for name in self._block_bytes]
            self._masters[form] = Streamed(self._masters[layers], self._part, blocks)
        self.current = form

    def _exchange(self, layers: Mapping[str, torch.nn.Linear]) -> None:
        for name, layer in layers.items():
            self._part.set_submodule(name, layer, strict=True)


def take_forms(base: Base, forms: Mapping[str, str]) -> Iterator[Phase | Underway]:
    """Give parts of a base these forms, and say so where that takes its time. They must have no LoRA attached.

    It can be stopped between two layers.
    """
    for part, form in forms.items():
        if base.must_quantise(part, form):
            phase = f"quantising the {part_in_words(part)} to {_layers_of(form)}"
            yield Phase(phase, stepwise=True)
            yield from (Underway(phase) for _ in base.quantise(part, form))
        base.use(part, form)
