"""Plans of device memory, and the limits of host memory."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.ml.geometry import on_meta
from worker.ml.families.conditions import PooledTokens, RaggedTokens, Tokens
from worker.ml.families.controlnets import NETWORKS
from worker.ml.guides.controlnet import Control
from worker.ml.memory import GIB, WORKSPACE_BYTES, anonymous_bytes, host_limit_bytes, plan_parts
from worker.ml.models import Base
from worker.ml.protocol import Condition, Family, Grid, GuideUse, Inputs
from worker.ml.train.memory import step_memory

FLUX_GIB = {"transformer": 22.168, "text_encoder_2": 8.870, "text_encoder": 0.229, "vae": 0.156}
FLUX_WORK_GIB = {"transformer": 0.457, "text_encoder_2": 0.125, "vae": 1.5}
STAGES = (("text_encoder", "text_encoder_2"), ("transformer",), ("vae",))


def in_bytes(gib: dict[str, float]) -> dict[str, int]:
    return {name: int(size * GIB) for name, size in gib.items()}


@pytest.mark.parametrize(
    ("free_gib", "stay", "words"),
    [
        (None, {*FLUX_GIB}, "full, here"),
        (79.0, {*FLUX_GIB}, "full, here: needs 33.2 of 79.0 GiB free"),
        (31.0, {"vae", "text_encoder"}, "offloaded, here: needs 23.3 of 31.0 GiB free"),
        (24.6, {"vae"}, "offloaded, here: needs 23.0 of 24.6 GiB free"),
        (23.2, set(), "offloaded, here: needs 22.9 of 23.2 GiB free"),
        (15.0, set(), "offloaded, here: may not fit: needs 22.9 of 15.0 GiB free"),
    ],
)
def test_parts_that_fit_beside_the_largest_stay_on_the_device(
    free_gib: float | None, stay: set[str], words: str
) -> None:
    free = None if free_gib is None else int(free_gib * GIB)
    plan = plan_parts(in_bytes(FLUX_GIB), STAGES, in_bytes(FLUX_WORK_GIB), free)
    assert (plan.stay, plan.describe("here")) == (stay, words)


def test_a_larger_picture_leaves_less_on_the_device() -> None:
    free = int(25.2 * GIB)
    small, large = (
        plan_parts(in_bytes(FLUX_GIB), STAGES, in_bytes(FLUX_WORK_GIB | {"transformer": work}), free)
        for work in (0.457, 1.666)
    )
    assert large.stay < small.stay
    assert large.needed_bytes == int(22.168 * GIB) + int(1.666 * GIB) + WORKSPACE_BYTES


# -- the host's memory


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str, dict[str, str]], Path]:
    """A root folder with the process's control groups, and the files of /sys/fs/cgroup."""

    def build(groups: str, files: dict[str, str]) -> Path:
        for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return build


PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "2147483648\n"}, 2 * GIB),
        ("0::/\n", {"memory.max": "max\n"}, PHYSICAL),
        ("0::/pod/worker\n", {"pod/worker/memory.max": "max\n", "pod/memory.max": f"{GIB}\n"}, GIB),
        ("0::/the/hosts/path\n", {"memory.max": f"{3 * GIB}\n"}, 3 * GIB),
        ("5:cpu:/a\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:cpu,memory:/docker/x\n", {"memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
        ("", {}, PHYSICAL),
    ],
    ids=["v2", "v2 unlimited", "v2 parent", "v2 inside a container", "v1", "v1 container", "v1 unlimited", "none"],
)
def test_the_containers_limit_is_found(
    machine: Callable[[str, dict[str, str]], Path], groups: str, files: dict[str, str], limit: int
) -> None:
    assert host_limit_bytes(machine(groups, files)) == limit


def test_weights_that_are_mapped_from_a_file_are_not_counted(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000), "b": torch.zeros(2000)}, tmp_path / "weights.safetensors")
    mapped = load_file(tmp_path / "weights.safetensors")
    assert anonymous_bytes([*mapped.values()]) == 0
    cast = mapped["a"].to(torch.float16)
    assert anonymous_bytes([*mapped.values(), cast, cast.view(500, 2)]) == 2000


def test_a_mapped_file_is_recognised_behind_a_link_of_another_name(tmp_path: Path) -> None:
    """As in the cache of a hub, where files are named by their hash."""
    save_file({"a": torch.zeros(1000)}, tmp_path / "5f3e9a")
    (tmp_path / "model.safetensors").symlink_to("5f3e9a")
    assert anonymous_bytes([*load_file(tmp_path / "model.safetensors").values()]) == 0


def test_tensors_shared_with_other_processes_are_counted() -> None:
    """Their memory is a file too, but of /dev/shm: the system cannot drop its pages."""
    assert anonymous_bytes([torch.zeros(1000).share_memory_()]) == 4000


def test_a_mapped_file_may_have_any_name(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff \x85"
    Path(os.fsdecode(path)).write_bytes(bytes(4096))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ):
        assert anonymous_bytes([torch.zeros(1000)]) == 4000


# -- what parts need while they run, measured at the real geometry without allocating it


class LiveBytes(TorchDispatchMode):
    """The largest sum of the tensors that live at once, apart from weights; also on the meta device."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._sizes = {weights.untyped_storage()._cdata: 0 for weights in module.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self._live += storage.nbytes()
                self.peak = max(self.peak, self._live)
                weakref.finalize(storage, self._free, storage._cdata)
        return result

    def _free(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


class FusedAttention(torch.autograd.Function):
    """Attention that keeps no scores, as the kernels of a GPU; on the meta device torch writes it out."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return FusedAttention.apply(query, key, value)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)


@dataclass(frozen=True)
class Published:
    """A published base on the meta device, a prompt for it, and the shape of its latents."""

    family: Family
    parts: Any
    prompt: Condition
    latents: Callable[[Grid], tuple[int, ...]]


@pytest.fixture(scope="module", params=["flux-dev", "klein", "qwen-image", "sd15", "sdxl", "z-image"])
def published(request: pytest.FixtureRequest) -> Published:
    return published_base(*on_meta(request.param))


def published_base(family: Family, parts: Any) -> Published:
    if family.name == "flux":
        prompt = PooledTokens(zeros(1, 512, 4096), zeros(1, 768))
        return Published(family, parts, prompt, lambda grid: (math.prod(grid), 64))
    if family.name == "klein":
        return Published(family, parts, Tokens(zeros(1, 512, 7680)), lambda grid: (math.prod(grid), 128))
    if family.name == "qwen-image":
        return Published(family, parts, RaggedTokens((zeros(512, 3584),)), lambda grid: (math.prod(grid), 64))
    if family.name == "z-image":
        prompts = RaggedTokens((zeros(512, 2560),))
        return Published(family, parts, prompts, lambda grid: (16, 2 * grid[0], 2 * grid[1]))
    if family.name == "sdxl":
        prompt = PooledTokens(zeros(1, 77, 2048), zeros(1, 1280))
        return Published(family, parts, prompt, lambda grid: (4, *grid))
    return Published(family, parts, Tokens(zeros(1, 77, 768)), lambda grid: (4, *grid))


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16, device="meta")


def inputs_of(published: Published, grid: Grid, rows: int) -> Inputs:
    latents, time = zeros(rows, *published.latents(grid)), torch.zeros(rows, device="meta")
    prompts = published.prompt.join([published.prompt] * (rows - 1))
    return Inputs(latents, time, prompts, grid, 1.0, ("wanted",) * rows)


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(("side", "rows"), [(512, 1), (512, 2), (1024, 1), (1536, 1)])
@torch.no_grad()
def test_what_drawing_needs_is_estimated_at_the_published_geometry(published: Published, side: int, rows: int) -> None:
    """A plan with too small a figure runs out of memory; with too large a one it moves parts that could stay."""
    family, parts = published.family, published.parts
    grid = (side // family.token_px(parts),) * 2
    estimate = family.working_bytes(parts, grid, rows)
    inputs = inputs_of(published, grid, rows)
    with LiveBytes(getattr(parts, family.denoiser)) as denoising:
        family.predict(parts, inputs)
    with LiveBytes(parts.vae) as decoding:
        family.decode_picture(parts, inputs.latents[:1], grid)
    assert 0.9 < denoising.peak / estimate[family.denoiser] < 1.05
    assert 0.9 < decoding.peak / estimate["vae"] < 1.05


FOR_SEVERAL_KINDS = {
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "num_control_type": 8,
    "num_trans_channel": 320,
    "num_proj_channel": 320,
}
Z_IMAGE_2 = {
    "control_in_dim": 33,
    "add_control_noise_refiner": "control_noise_refiner",
    "control_refiner_layers_places": [0, 1],
}
Z_IMAGE_2_0 = {**Z_IMAGE_2, "add_control_noise_refiner": "control_layers", "control_layers_places": [*range(0, 30, 2)]}
PUBLISHED_CONTROLNETS: list[tuple[str, str, dict[str, Any]]] = [
    ("sd15", "ControlNetModel", {}),
    ("sdxl", "ControlNetUnionModel", FOR_SEVERAL_KINDS),
    ("flux-dev", "FluxControlNetModel", {"num_layers": 6, "num_single_layers": 0}),
    ("flux-dev", "FluxControlNetModel", {"num_layers": 5, "num_single_layers": 10, "num_mode": 10}),
    ("z-image", "ZImageControlNetModel", {"control_layers_places": [0, 5, 10, 15, 20, 25], "control_in_dim": 16}),
    ("z-image", "ZImageControlNetModel", {**Z_IMAGE_2, "control_layers_places": [*range(0, 30, 2)]}),
    ("z-image", "ZImageControlNetModel", Z_IMAGE_2_0),
]


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize(
    ("published", "name", "config"),
    PUBLISHED_CONTROLNETS,
    indirect=["published"],
    ids=[
        *("sd15", "sdxl union", "flux union of 6 blocks", "flux union of 15 blocks"),
        *("z-image", "z-image 2.1", "z-image 2.0"),
    ],
)
@pytest.mark.parametrize("side", [512, 1024])
@torch.no_grad()
def test_what_a_control_network_needs_is_estimated_at_the_published_geometry(
    published: Published, name: str, config: dict[str, Any], side: int
) -> None:
    """With what the denoiser needs: their peaks are at different times."""
    family, parts = published.family, published.parts
    denoiser, token_px = getattr(parts, family.denoiser), family.token_px(parts)
    with torch.device("meta"):
        network = NETWORKS[name].diffusers_class.from_config({**denoiser.config, **config}).to(torch.bfloat16).eval()
    guide = NETWORKS[name](Path("controlnet"), network)
    grid, rows = (side // token_px,) * 2, 1 if family.name == "flux" else 2
    base: Any = SimpleNamespace(
        family=family, parts=parts, denoiser=denoiser, dtype=torch.bfloat16, device=torch.device("cpu")
    )
    picture = zeros(1, 3, side, side)
    if family.name == "flux":
        picture = zeros(1, *published.latents(grid))
    elif family.name == "z-image":
        picture = zeros(1, config["control_in_dim"], 1, *published.latents(grid)[1:])
    inputs = inputs_of(published, grid, rows)
    weights = sum(part.nbytes for part in network.parameters())
    with LiveBytes(torch.nn.ModuleList([network, denoiser])) as step, guide.attach(base):
        residuals = guide.residuals(Control(base, picture, 1.0, None if guide.mode_count is None else 0), inputs)
        family.predict(parts, replace(inputs, extra=residuals))
    besides = guide.working_bytes(base, GuideUse(guide), grid) - weights
    estimate = family.working_bytes(parts, grid, rows)[family.denoiser] + besides
    assert 0.9 < step.peak / estimate < 1.05


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
def test_what_a_checkpointed_training_step_needs_is_estimated_at_the_published_geometry(
    published: Published,
) -> None:
    """The LoRA is in bfloat16, which autocast would make of it: there is no autocast on the meta device."""
    family, parts = published.family, published.parts
    denoiser = getattr(parts, family.denoiser).train()
    grid = (family.training_defaults.resolutions[-1] // family.token_px(parts),) * 2
    with family.new_lora(parts, 16, torch.Generator()) as lora:
        for weights in lora.values():
            weights.data = weights.data.to("meta", torch.bfloat16)
        denoiser.enable_gradient_checkpointing()
        with LiveBytes(denoiser) as step:
            family.predict(parts, inputs_of(published, grid, 1)).float().square().mean().backward()
    estimate = family.activation_bytes(parts, grid, 1) * family.checkpointed_share
    gradients = sum(weights.numel() for weights in lora.values()) * 2
    assert 0.75 < (step.peak - gradients) / estimate < 1.1


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
@pytest.mark.parametrize("slug", ["flux-dev", "sdxl"])
@torch.no_grad()
def test_a_quantised_denoiser_needs_a_layers_wide_weights_more(slug: str) -> None:
    base = published_in_int8(slug)
    family, parts = base.family, base.parts
    grid = (1024 // family.token_px(parts),) * 2
    with LiveBytes(base.denoiser) as denoising:
        family.predict(parts, inputs_of(published_base(family, parts), grid, 1))
    weights, wide = base.denoiser_bytes("int8")
    assert base.part_bytes(family.denoiser) == weights
    assert 0.8 < denoising.peak / (family.working_bytes(parts, grid, 1)[family.denoiser] + wide) < 1.05


@pytest.mark.slow
@pytest.mark.usefixtures("fused_attention")
def test_a_checkpointed_training_step_on_a_quantised_denoiser_keeps_no_wide_weights() -> None:
    base = published_in_int8("flux-dev")
    family, parts = base.family, base.parts
    base.denoiser.train()
    grid = (1024 // family.token_px(parts),) * 2
    with family.new_lora(parts, 16, torch.Generator()) as lora:
        for weights in lora.values():
            weights.data = weights.data.to("meta", torch.bfloat16)
        base.denoiser.enable_gradient_checkpointing()
        with LiveBytes(base.denoiser) as step:
            inputs = inputs_of(published_base(family, parts), grid, 1)
            family.predict(parts, inputs).float().square().mean().backward()
    needs = step_memory(base, "int8", grid, 1, weights=0)
    gradients = sum(weights.numel() for weights in lora.values()) * 2
    assert 0.75 < (step.peak - gradients) / needs.checkpointed < 1.1


def published_in_int8(slug: str) -> Base:
    """A published base on the meta device. bitsandbytes, for nf4, has tables that need a device with values."""
    base = Base(Path(slug), *on_meta(slug), torch.device("meta"), torch.bfloat16, ("int8",))
    base.use(base.family.denoiser, "int8")
    return base
