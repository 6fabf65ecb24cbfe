"""Describe an error in the GPU process: its code, a message for the app's user, and whether it is fatal."""

from __future__ import annotations

from pathlib import Path

import torch

from worker import errors
from worker.gpu.messages import Failed
from worker.ml.errors import BadInput, ModelUnreadable, PrecisionUnsupported, is_out_of_memory


def failure(error: BaseException, phase: str) -> Failed:
    """Describe an error of any task, of the core or from outside.

    A library's own text may quote a prompt or a path: only messages of our own errors are passed on.
    """
    match error:
        case errors.WorkerError():
            return Failed(code=error.code, message=error.message)
        case BadInput() | ModelUnreadable():  # an unreadable base model or upscaler raised ModelMissing
            return Failed(code=errors.InvalidInput.code, message=str(error))
        case PrecisionUnsupported():  # this pod's GPU is at fault, not the job
            return Failed(code=errors.ModelMissing.code, message=f"this pod cannot do the job: {error}")
        case _ if is_out_of_memory(error):
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
    """Return True if later CUDA calls fail too, as after most CUDA errors; libraries wrap them in their own types."""
    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
