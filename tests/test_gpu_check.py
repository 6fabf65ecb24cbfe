"""The GPU check at tiny size on a CPU, and what becomes of checks that go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import gpu_checks
from tests.tiny_models import ONE_THREAD
from tools.gpu_check import runner
from tools.gpu_check.bench import Bench
from tools.gpu_check.checks import flux_memory
from tools.gpu_check.groups import GROUPS
from tools.gpu_check.runner import Check, CheckFailed, Describes, Line, run_checks
from tools.gpu_check.trace import Trace
from worker.ml.masters import Masters

ROOT = Path(__file__).parent.parent


def gpu_check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.gpu_check", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | ONE_THREAD)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("gpu-check") / "lines.json"
    ran = gpu_check("--tiny", "--out", str(out))
    assert out.read_text() == ran.stdout, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.returncode == 0) == all(line["ok"] for line in lines)
    return lines


def test_every_group_runs_at_tiny_size_and_every_check_is_ok(lines: list[dict[str, Any]]) -> None:
    assert [line for line in lines if not line["ok"]] == []
    versions, *checks, summary = lines
    assert list(dict.fromkeys(line["group"] for line in checks)) == list(GROUPS)
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert versions["device"] == "cpu"
    assert summary["checks"] == len(checks)


def test_lines_have_the_figures_that_a_reader_compares(lines: list[dict[str, Any]]) -> None:
    by_name = {(line["group"], line.get("check")): line for line in lines}
    assert by_name["parts", "build"]["transformer_gib"] == by_name["parts", "build"]["transformer_computed_gib"]
    assert by_name["training", "512 checkpointed"]["checkpointing"]
    assert not by_name["training", "512"]["checkpointing"]
    assert by_name["limits", "32 GiB"]["drawing_plan"].startswith("full")
    assert by_name["limits", "12 GiB"]["drawing_plan"].startswith("offloaded")
    assert "SIGKILL" in by_name["process", "life"]["kill_said"]
    assert by_name["process", "device assertion"]["skipped"]


def test_help_names_every_group_and_needs_no_torch() -> None:
    shown = gpu_check("--help").stdout
    assert all(f"  {name} " in shown for name in GROUPS)


def test_without_a_gpu_real_sizes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    described = Bench(tmp_path, tiny=False).describe()
    assert not described["ok"]
    assert "--tiny" in described["error"]


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which no transformer fits, and no plan knows it."""
    to_device = Masters.to_device

    def fit(masters: Masters, device: torch.device) -> None:
        if masters.nbytes > 4_000_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        to_device(masters, device)

    monkeypatch.setattr(Masters, "to_device", fit)


@pytest.mark.usefixtures("small_device")
def test_what_does_not_fit_fails_the_check_only_if_the_plan_promised_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny=True)
    figures = flux_memory.limited(bench, limit_gib=12)
    assert not figures["draws"]
    assert not figures["trains"]
    assert figures["drawing_said"] == "out_of_memory: the job does not fit this pod's memory: it ran out while drawing"
    with pytest.raises(CheckFailed, match="promised"):
        flux_memory.limited(bench, limit_gib=32)


# -- the runner


def checks(*functions: Callable[..., object], deadline_s: float = 30) -> list[Check]:
    return [Check("a group", one.__name__, f"{one.__module__}:{one.__name__}", deadline_s) for one in functions]


def run(
    these: Sequence[Check], bench: Callable[[], Describes] = gpu_checks.LightBench, **limits: float
) -> tuple[dict[str, Line], Line]:
    """Return the lines of checks by name, and the summary."""
    lines: list[Line] = []
    ok = run_checks(these, bench, lines.append, **limits)
    assert lines[0]["group"] == "versions"
    assert lines[-1]["ok"] == ok
    return {line["check"]: line for line in lines[1:-1]}, lines[-1]


def test_a_check_that_raises_becomes_a_line_with_its_error_and_figures() -> None:
    lines, summary = run(checks(gpu_checks.not_so, gpu_checks.mistaken, gpu_checks.not_finite, gpu_checks.fine))
    assert (lines["not_so"]["error"], lines["not_so"]["share"]) == ("the picture is blank", 0.5)
    assert lines["mistaken"]["error"] == "KeyError: 'speed'"
    assert (lines["not_finite"]["ok"], lines["not_finite"]["loss"]) == (True, None)
    assert lines["fine"]["ok"]
    assert summary["failed"] == ["a group: not_so", "a group: mistaken"]


@pytest.mark.parametrize(
    ("wrong", "deadline_s", "error"),
    [
        (gpu_checks.broken_device, 30, "RuntimeError: CUDA error: an illegal memory access was encountered"),
        (gpu_checks.slow, 0.2, "passed its deadline of 0.2 s"),
        (gpu_checks.deaf, 0.2, "passed its deadline of 0.2 s and was killed"),
        (gpu_checks.crash, 30, "its process ended with signal SIGSEGV"),
    ],
)
def test_what_may_have_broken_a_process_is_followed_by_a_new_one(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., object], deadline_s: float, error: str
) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.5)
    before, after = checks(gpu_checks.fine, gpu_checks.not_finite)
    after = Check("a group", "after", before.function, 30)
    lines, _ = run([before, *checks(wrong, deadline_s=deadline_s), after])
    assert lines[wrong.__name__]["error"] == error
    assert lines["after"]["ok"]
    assert lines["after"]["pid"] != lines["fine"]["pid"]


def test_checks_that_have_not_begun_when_the_time_is_over_are_not_run() -> None:
    lines, summary = run(checks(gpu_checks.fine), limit_s=0)
    assert lines["fine"]["error"] == "not run: all checks together may take 0 s"
    assert not summary["ok"]


def test_where_the_libraries_cannot_be_imported_no_check_runs() -> None:
    lines, summary = run(checks(gpu_checks.fine), bench=gpu_checks.no_bench)
    assert lines == {}
    assert not summary["ok"]


def test_no_check_runs_on_another_device_than_the_first(tmp_path: Path) -> None:
    these = checks(gpu_checks.broken_device, gpu_checks.fine)
    lines, _ = run(these, bench=partial(gpu_checks.LostBench, tmp_path / "found"))
    assert lines["fine"]["error"] == "not run: a GPU is gone"


# -- figures that a CPU does not show


def event(category: str, name: str, begin_us: float, duration_us: float) -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": begin_us, "dur": duration_us}


def test_the_gpu_is_busy_while_any_of_its_work_runs() -> None:
    events = [
        event("kernel", "gemm", 100, 300),
        event("gpu_memcpy", "Memcpy HtoD", 300, 200),  # overlaps
        event("kernel", "gemm", 350, 50),  # lies within both
        event("kernel", "gemm", 900, 100),
        event("cuda_runtime", "cudaLaunchKernel", 500, 400),
    ]
    assert Trace(0.001, events).busy_share == 0.5


def test_the_attention_kernel_is_the_one_that_took_longest() -> None:
    events = [
        event("kernel", "fmha_cutlassF_bf16", 0, 50),
        event("kernel", "pytorch_flash::flash_fwd_kernel", 50, 30),
        event("kernel", "pytorch_flash::flash_fwd_kernel", 80, 30),
        event("kernel", "gemm", 110, 900),
        event("cpu_op", "aten::scaled_dot_product_attention", 0, 5000),
    ]
    assert Trace(0.01, events).attention_kernel == "pytorch_flash::flash_fwd_kernel"


def test_the_cpu_waits_in_synchronisations_and_where_the_queue_is_full() -> None:
    events = [
        event("cuda_runtime", "cudaLaunchKernel", 0, 5),
        event("cuda_driver", "cuLaunchKernel", 10, 3_000),
        event("cuda_runtime", "cudaMemcpyAsync", 4_000, 10),
        event("cuda_runtime", "cudaStreamSynchronize", 5_000, 2_000),
        event("cuda_runtime", "cudaDeviceSynchronize", 9_990, 10),  # of the recording itself
    ]
    figures = Trace(0.01, events).cpu_figures(steps=1)
    assert figures == {"synchronisations_a_step": 1.0, "cpu_launch_ms_a_step": 5.0}
