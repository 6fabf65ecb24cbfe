"""Models in memory: loading a base, moving its parts to the device and back, and keeping models loaded.

Nothing here asks a hub: a base is a folder on disk, and a missing one is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from worker.ml import memory
from worker.ml.errors import ModelUnreadable, PackageMissing, is_out_of_memory
from worker.ml.families.registry import family_of
from worker.ml.masters import Masters
from worker.ml.memory import GIB, PLAIN, Plan
from worker.ml.protocol import Family, Parts
from worker.ml.quantise.forms import FORMS, Forms


class Base:
    """A loaded base model. Its parts move between device and host memory; their weights never change.

    The denoiser has several forms (`quantise/`), of which each job uses one.
    """

    def __init__(
        self,
        folder: Path,
        family: Family,
        parts: Parts,
        device: torch.device,
        dtype: torch.dtype,
        forms: Sequence[str] = FORMS,
    ) -> None:
        """`forms` are those of the denoiser that plans choose from: the first that fits, else the last.

        Where the device shares the host's memory, it is always the first. Raises PackageMissing if none is possible.
        """
        self.folder = folder
        self.family = family
        self.parts = parts
        self.device = device
        self.dtype = dtype
        """The precision that the denoiser computes in."""
        self._parts = {name: Masters(module) for name, module in family.modules(parts).items()}
        self._forms = Forms(self.denoiser, family.quantised)
        self._parts[family.denoiser] = self._forms.masters
        self.forms = self._forms.offered(forms[:1] if memory.shares_host(device) else forms)
        """Those of the denoiser that it can have here, from the most exact to the smallest."""
        if not self.forms:
            raise PackageMissing(f"{folder.name} cannot be quantised: bitsandbytes is not installed (the extra gpu)")
        self.make_room: Callable[[int], bool] = lambda _: True
        """Asked before a form is made that takes so much host memory; returns whether there is enough."""
        self._plan: Plan | None = None

    @property
    def denoiser(self) -> Any:
        """The denoiser, which is a diffusers model in every family."""
        return self.family.modules(self.parts)[self.family.denoiser]

    @property
    def computes_in(self) -> str:
        """Device and precision in words, such as "cuda, bfloat16"."""
        return f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def anonymous_bytes(self) -> int:
        """Host memory that it holds, without weights that are mapped from files."""
        tensors = [tensor for part in self._parts.values() for tensor in part.tensors]
        return memory.anonymous_bytes([*tensors, *self._forms.tensors])

    def part_bytes(self, name: str) -> int:
        """Return the size of a part's weights."""
        return self._parts[name].nbytes

    def denoiser_bytes(self, form: str) -> tuple[int, int]:
        """Return the size of the denoiser's weights in a form, and what it needs to compute more than the plain one."""
        return self._forms.nbytes(form), self._forms.work_bytes(form)

    @property
    def free_bytes(self) -> int | None:
        """Memory of the device for a job: what is free, and what parts of this base take there; None on a CPU."""
        free = memory.free_device_bytes(self.device)
        return None if free is None else free + sum(part.nbytes for part in self._parts.values() if part.on_device)

    def fault(self, last_used: str) -> str:
        """Say which part has weights that are not finite; if none has, that the part last used overflows."""
        for name, module in self.family.modules(self.parts).items():
            if not all(weights.isfinite().all() for weights in (*module.parameters(), *module.buffers())):
                return f"some weights of its {name} are not finite"
        return f"its {last_used} overflows"

    def plan(self, working_bytes: Mapping[str, int]) -> Plan:
        """Decide for one job in which form the denoiser is, and which parts stay on the device between its stages:
        encode, denoise, decode.

        `working_bytes` is what each part needs while it runs, besides its weights. The denoiser gets its form by `use`.
        """
        free, denoiser = self.free_bytes, self.family.denoiser
        besides = working_bytes.get(denoiser, 0) + memory.WORKSPACE_BYTES
        usable = math.inf if free is None else free * memory.USABLE_SHARE
        fitting = (form for form in self.forms if sum(self.denoiser_bytes(form)) + besides <= usable)
        form = next(fitting, self.forms[-1])
        plan = self._plan_in(form, working_bytes, free)
        if form != PLAIN:
            plain = self._plan_in(PLAIN, working_bytes, 0).needed_bytes if PLAIN in self.forms else None
            plan = replace(plan, quantised=memory.Quantised(form, plain))
        self._plan = plan
        return plan

    def _plan_in(self, form: str, working_bytes: Mapping[str, int], free: int | None) -> Plan:
        """Plan a job whose denoiser is in this form."""
        family = self.family
        weights, work = self.denoiser_bytes(form)
        return memory.plan_parts(
            {**{name: part.nbytes for name, part in self._parts.items()}, family.denoiser: weights},
            [family.encoders, (family.denoiser,), (family.autoencoder,)],
            {**working_bytes, family.denoiser: working_bytes.get(family.denoiser, 0) + work},
            free,
        )

    def must_quantise(self, form: str) -> bool:
        """Return True if `use` takes its time, because the denoiser has not been in this form yet."""
        return not self._forms.is_made(form)

    def use(self, form: str) -> None:
        """Give the denoiser this form. It must have no LoRA attached."""
        self._forms.use(form, self.device, self.make_room)
        self._parts[self.family.denoiser] = self._forms.masters

    def place(self, *names: str, alone: bool = False) -> None:
        """Move these parts to the device. `alone`, or by the plan, others make room first."""
        if memory.shares_host(self.device):
            return
        stay = self._plan.stay if self._plan and not alone else ()
        for name, part in self._parts.items():
            if name not in names and name not in stay:
                part.to_host()
        for name in names:
            self._parts[name].to_device(self.device)

    def to_host(self) -> None:
        """Move all parts to host memory."""
        for part in self._parts.values():
            part.to_host()


def load(
    folder: Path, device: str | None = None, dtype: torch.dtype | None = None, forms: Sequence[str] = FORMS
) -> Base:
    """Load a base for the device (CUDA if available) in this precision (by default, the device's own).

    Its plans choose from these forms of the denoiser.

    Raises ModelUnreadable, naming the folder, if it is missing, damaged, or of an unknown family, and PackageMissing.
    """
    # Warnings of both quote the part of a prompt that an encoder cuts off, and prompts must not reach a log.
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()

    family = family_of(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or memory.compute_dtype(place)
    try:
        _check_complete(folder, family.not_loaded)
        parts = family.load(folder, family.dtypes(dtype))
    except ModelUnreadable:
        raise
    except ImportError as error:  # some schedulers need scipy or torchsde, which diffusers does not
        raise PackageMissing(f"{folder.name} needs the package {_package(error)}, which is not installed") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{folder} is an incomplete or damaged base model: {error}") from error
    for module in family.modules(parts).values():
        module.requires_grad_(False).eval()
    return Base(folder, family, parts, place, dtype, forms)


def _package(error: ImportError) -> str:
    """Return the package that an error names, else the beginning of what it says."""
    named = re.search(r"requires the (\w+) library|install (\w+)", str(error))
    return error.name or (named and (named[1] or named[2])) or str(error).strip()[:200]


def _check_complete(folder: Path, not_loaded: Collection[str]) -> None:
    """Raise ModelUnreadable unless every part that the index names has a folder.

    For a missing one, transformers would make up an empty tokenizer.
    """
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    for name, kind in index.items():
        needed = isinstance(kind, list) and None not in kind and name not in not_loaded
        if needed and not (folder / name).is_dir():
            raise ModelUnreadable(f"{folder} is an incomplete base model: {name} is missing")


class Loaded(Protocol):
    """A model that a `Store` keeps."""

    @property
    def anonymous_bytes(self) -> int:
        """Host memory that it holds and that the system cannot take back."""


Model = TypeVar("Model", bound=Loaded)


class Store:
    """Keeps models loaded within a limit of host memory: the least recently used ones are unloaded first.

    Weights that are mapped from files do not count: the system takes their pages back when it needs them.
    """

    def __init__(self, say: Callable[[str], None], limit_bytes: int | None = None) -> None:
        """`say` is told in words which model is unloaded, and why."""
        self._say = say
        self._limit = limit_bytes or int(memory.host_limit_bytes() * memory.HOST_SHARE)
        self._loaded: OrderedDict[tuple[Path, str], Loaded] = OrderedDict()

    def base(self, folder: Path) -> Base:
        """Return the base of this folder, and move all others off the device. Raises ModelUnreadable."""
        base = self.get(folder, load)
        base.make_room = partial(self._make_room_to_grow, folder)
        self.clear_device(base)
        return base

    def clear_device(self, but: Base | None = None) -> None:
        """Move all bases but one to host memory, for something else to use the device."""
        for other in self._loaded.values():
            if isinstance(other, Base) and other is not but:
                other.to_host()

    def get(self, path: Path, load: Callable[[Path], Model], variant: str = "") -> Model:
        """Return the model of this folder or file, loading it if needed. Raises what `load` raises.

        A model that `load` returns in several forms is kept in each, told apart by `variant`.
        """
        key = path.resolve(), variant
        if key not in self._loaded:
            self._make_room(path, _bytes_on_disk(path))
            model = load(key[0])
            self._make_room(path, model.anonymous_bytes)  # more than its files, where weights became wider
            self._loaded[key] = model
        self._loaded.move_to_end(key)
        return cast(Model, self._loaded[key])

    def _make_room_to_grow(self, path: Path, needed: int) -> bool:
        """Unload others until a loaded model may take so many bytes more; return whether it then may."""
        return self._make_room(path, needed, keep=path.resolve())

    def _make_room(self, path: Path, needed: int, keep: Path | None = None) -> bool:
        """Unload models until this one fits, which needs so many bytes, or no other holds any. Return True if it fits.

        The models of the path `keep` stay.
        """
        while True:
            holding = {key: size for key, model in self._loaded.items() if (size := model.anonymous_bytes)}
            held = sum(holding.values())
            oldest = next((key for key in holding if key[0] != keep), None)  # of those whose unloading frees memory
            if held + needed <= self._limit or oldest is None:
                return held + needed <= self._limit
            del self._loaded[oldest]
            self._say(
                f"unloaded {_name(oldest[0])} to load {_name(path)}: loaded models hold {held / GIB:.1f} GiB, it may "
                f"need {needed / GIB:.1f}, and the limit is {self._limit / GIB:.1f}"
            )


def _bytes_on_disk(path: Path) -> int:
    """Return what a model needs if none of its weights can be mapped from its files.

    The weights of a base are in a folder each, which may be a link; those of a guide may be beside such folders too.
    """
    if path.is_file():
        return path.stat().st_size
    files = [*path.glob("*/*.safetensors")]
    if not (path / "model_index.json").is_file():
        files += path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _name(path: Path) -> str:
    """Return a model's slug: an upscaler is a file in a folder of that name."""
    return path.parent.name if path.suffix else path.name
