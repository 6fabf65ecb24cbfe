"""What an error in the GPU process means for the job: its code, what the app's user may read, and whether to go on."""

from __future__ import annotations

from pathlib import Path

import torch

from worker import errors
from worker.gpu.messages import Failed
from worker.ml.errors import BadInput, ModelUnreadable


def failure(error: BaseException, phase: str) -> Failed:
    """Describe an error of any task, of the core or from outside.

    A library's own text may quote a prompt or a path: only errors that were worded for the app's user are passed on.
    """
    match error:
        case errors.WorkerError():
            return Failed(code=error.code, message=error.message)
        case BadInput() | ModelUnreadable():  # a base or upscaler that is unreadable came as ModelMissing
            return Failed(code=errors.InvalidInput.code, message=str(error))
        case torch.OutOfMemoryError() | MemoryError():
            message = f"the job does not fit this pod's memory: it ran out while {phase}"
            return Failed(code=errors.OutOfMemory.code, message=message, fatal=True)
        case OSError():
            name = f": {Path(str(error.filename)).name}" if error.filename else ""
            message = f"{type(error).__name__} while {phase}: {error.strerror}{name}"
            return Failed(code=errors.InternalError.code, message=message)
        case _:
            message = f"{type(error).__name__} while {phase}; the pod's log says where"
            return Failed(code=errors.InternalError.code, message=message, fatal=_gpu_is_broken(error))


def _gpu_is_broken(error: BaseException) -> bool:
    """After most CUDA errors every later call fails too, and libraries wrap them in types of their own."""
    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
