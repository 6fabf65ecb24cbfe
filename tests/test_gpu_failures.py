"""How an error in the GPU process is described to the worker."""

from __future__ import annotations

import errno

import pytest
import torch

from worker import errors
from worker.gpu.failures import failure

MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError("Unable to allocate 8.00 TiB for an array"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("unable to mmap 24244 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHER_ERRORS = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("a prompt may say out of memory"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=str)
def test_memory_that_ran_out_is_told_by_whichever_name_it_arrives(error: Exception) -> None:
    failed = failure(error, "drawing")
    assert (failed.code, failed.fatal) == (errors.OutOfMemory.code, True)
    assert failed.message == "the job does not fit this pod's memory: it ran out while drawing"


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=str)
def test_other_errors_are_internal(error: Exception) -> None:
    assert failure(error, "drawing").code == errors.InternalError.code
