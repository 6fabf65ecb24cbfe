"""What fits: memory of the device and of the host, and which parts of a base take turns on the device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

GIB = 2**30
WORKSPACE_BYTES = 2**28
"""What cuBLAS, cuDNN and the gaps between blocks of memory take on the device, besides weights and activations."""
USABLE_SHARE = 0.94
"""Of the device's free memory, where a plan has a choice: the upscaler and the gaps of the allocator take the rest."""
HOST_SHARE = 0.75
"""Share of the host's memory that loaded models may hold; the rest is for the worker, libraries and pictures."""

PLAIN = "plain"
"""The form of a part that is not quantised."""


@dataclass(frozen=True)
class Plan:
    """Which parts of a base stay on the device through a job; the others take turns."""

    stay: frozenset[str]
    full: bool  # all stay
    needed_bytes: int  # on the device, at the peak
    free_bytes: int | None  # on the device; None where it shares the host's memory
    forms: Mapping[str, str] = field(default_factory=dict)
    """Of the parts that have several, see `quantise/`."""
    plain_bytes: int | None = None
    """What it would need at least if all were plain; None if that was no choice."""

    def describe(self, device: str) -> str:
        """Return the plan in words, with its estimate where memory is limited."""
        words = f"{'full' if self.full else 'offloaded'}, {device}"
        if self.free_bytes is not None:
            words += f": {describe_need(self.needed_bytes, self.free_bytes)}"
        return describe_forms(self.forms, words, self.plain_bytes)


def describe_forms(forms: Mapping[str, str], plan: str, plain_bytes: int | None) -> str:
    """Return a plan in words with the parts that are not plain in it, and why."""
    told = [f"{form} {part_in_words(part)}" for part, form in forms.items() if form != PLAIN]
    why = f"; unquantised, it would need {plain_bytes / GIB:.1f}" if told and plain_bytes is not None else ""
    return ", ".join([*told, plan]) + why


def part_in_words(part: str) -> str:
    """Return a part's name for a person. Of several text encoders, one has forms."""
    return "text encoder" if part.startswith("text_encoder") else part


def describe_need(needed_bytes: int, free_bytes: int) -> str:
    """Return what a plan needs of the device's free memory, in words."""
    needs = "needs" if needed_bytes <= free_bytes else "may not fit: needs"
    return f"{needs} {needed_bytes / GIB:.1f} of {free_bytes / GIB:.1f} GiB free"


def plan_parts(
    part_bytes: Mapping[str, int],
    stages: Sequence[Sequence[str]],
    working_bytes: Mapping[str, int],
    free_bytes: int | None,
) -> Plan:
    """Plan a job whose stages each need some of the parts on the device.

    `working_bytes` is what a part needs in addition to its weights while it runs. Parts that fit beside every stage,
    with some to spare, stay, the smallest first, so that as few as possible are moved. `free_bytes` is None where the
    device shares the host's memory: then nothing is moved.
    """

    def peak(stay: frozenset[str]) -> int:
        return WORKSPACE_BYTES + max(
            sum(part_bytes[name] for name in stay.union(stage)) + max(working_bytes.get(name, 0) for name in stage)
            for stage in stages
        )

    every_part = frozenset(part_bytes)
    if free_bytes is None:
        return Plan(every_part, True, peak(every_part), None)
    stay: frozenset[str] = frozenset()
    for name in sorted(part_bytes, key=part_bytes.__getitem__):
        if peak(stay | {name}) <= free_bytes * USABLE_SHARE:
            stay |= {name}
    return Plan(stay, stay == every_part, peak(stay), free_bytes)


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return the precision that bases compute in on this device: bfloat16 only where the GPU has it in hardware.

    Emulated bfloat16 is several times slower than float16.
    """
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def shares_host(device: torch.device) -> bool:
    """Return True for a device that computes in the host's memory."""
    return device.type == "cpu"


def free_device_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on the device, or None where it shares the host's memory."""
    if shares_host(device):
        return None
    torch.cuda.empty_cache()  # memory that this process caches but does not use is free too
    return torch.cuda.mem_get_info(device)[0]


def host_limit_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use: its container's limit (cgroup v2 or v1), or the machine's memory.

    A limit may be set at any level above the process, so the smallest counts. `root` is where /proc and /sys are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> list[int]:
    """Return the limits of the process's control groups, of every level.

    Lines of /proc/self/cgroup are `0::PATH` in version 2 and `N:CONTROLLERS:PATH` in version 1. Inside a container
    the path may be the host's, which does not exist there: then its own group is the root.
    """
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                limits += [int(number) for number in _read(folder / name).split() if number.isdigit()]  # or "max"
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def anonymous_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Return the host memory that these tensors hold and that the system cannot take back.

    Weights that safetensors maps from a file are not part of it: their pages can be dropped and read again.
    """
    mapped = _mapped_files()
    sizes = {}
    for tensor in (tensor for tensor in tensors if tensor.device.type == "cpu"):
        storage = tensor.untyped_storage()
        begin = storage.data_ptr()
        if not any(low <= begin < high for low, high in mapped):
            sizes[begin] = storage.nbytes()
    return sum(sizes.values())


def _mapped_files() -> list[tuple[int, int]]:
    """Return the address ranges of this process that are mapped from files (proc_pid_maps(5)).

    Names do not tell a file of weights: of a link, it is its target's. Devices are no files: a driver maps them for
    memory that is pinned.
    """
    ranges = []
    for line in _read(Path("/proc/self/maps")).split("\n"):
        match line.split(maxsplit=5):
            case [addresses, _, _, _, _, name] if name.startswith("/") and not name.startswith("/dev/"):
                low, _, high = addresses.partition("-")
                ranges.append((int(low, 16), int(high, 16)))
    return ranges
