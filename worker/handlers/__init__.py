"""One file a kind of job; `docs/adding-a-job-kind.md` says what else a new kind needs."""

from worker.handlers.context import Handler
from worker.handlers.generation import generate
from worker.handlers.publish_lora import publish_lora
from worker.handlers.training import train

HANDLERS: dict[str, Handler] = {
    "training": train,
    "generation": generate,
    "publish_lora": publish_lora,
}
