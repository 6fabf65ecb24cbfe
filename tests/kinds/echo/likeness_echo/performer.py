"""What the GPU process does. Imported there alone: this is the place for torch."""

import time

from likeness_echo.task import EchoTask
from worker.gpu.messages import Phase, Progress, Work
from worker.gpu.models import Models


def perform(task: EchoTask, models: Models) -> Work:
    """Yield after each step: there the task can be stopped, and only there."""
    yield Phase(name="echoing", stepwise=True)
    path = task.workdir / "echo.txt"
    with path.open("w") as file:
        for number in range(1, task.times + 1):
            file.write(f"{task.words}\n")
            time.sleep(task.pause_s)
            yield Progress(fraction=number / task.times, phase="echoing", metrics={"step": number})
    return {"path": path, "times": task.times}
