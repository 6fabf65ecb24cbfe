"""`worker` commands without their seconds of imports: each is forked from one process that has imported them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

IMPORTED = ("worker.commands.doctor", "worker.queue")
IMPORTED_FOR = {"lora": ("worker.ml.adapters.files", "worker.ml.families.lora")}
"""By the first word of a command, what is imported before it as well: torch."""
TIMEOUT_S = 240

SERVER = """
import gc, importlib, json, os, signal, sys, traceback
from worker.cli import main
for line in sys.stdin:
    asked = json.loads(line)
    gc.disable()
    for module in asked["imports"]:
        importlib.import_module(module)
    gc.freeze()  # so that no collection in a child writes to, and so copies, all that was imported
    gc.enable()
    child = os.fork()
    if child == 0:
        signal.alarm(asked["timeout"])
        for output, path in enumerate(asked["files"]):
            os.dup2(os.open(path, os.O_RDWR), output)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["worker", *asked["words"]]
        try:
            sys.exit(main())
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else ended.code is not None
        except BaseException:
            traceback.print_exc()
            code = 1
        for output in (sys.stdout, sys.stderr):
            output.flush()
        os._exit(code)  # for the same reason, nothing is taken down
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Ran:
    """The result of a command."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands one after the other, each in a process, an environment and a folder of its own."""

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.communicate()  # its input ends
        self._folder.cleanup()

    def run(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Ran:
        """Run `worker …`."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        for path in outputs:
            path.write_text("")
        asked = {
            "words": [*words],
            "environment": {**environment},
            "folder": str(folder),
            "files": ["/dev/null", *map(str, outputs)],
            "imports": [*IMPORTED, *IMPORTED_FOR.get(words[0], ())],
            "timeout": TIMEOUT_S,
        }
        self._server.stdin.write(f"{json.dumps(asked)}\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ran(code, *(path.read_text() for path in outputs))
