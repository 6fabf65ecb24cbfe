"""Checks the JavaScript of `examples/supabase-js.md` with TypeScript, against supabase-js and `examples/types.ts`.

Needs npm; fetches two packages into `.venv/check-examples`. Run it with `make check-examples`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv" / "check-examples"
PACKAGES = ("typescript@7.0.2", "@supabase/supabase-js@2.119.0")
TSC = "node_modules/.bin/tsc --project tsconfig.json"
TSCONFIG = {
    "files": ["page.js", "types.ts"],
    "compilerOptions": {
        **dict.fromkeys(("allowJs", "checkJs", "strict", "noEmit", "skipLibCheck"), True),
        "target": "es2022",
        "module": "nodenext",
        "lib": ["es2022", "dom", "dom.iterable"],
        "types": [],
    },
}


def main() -> int:
    """Exit code 0 when the page's code has no type error; what is wrong goes to stdout."""
    npm = shutil.which("npm")
    if npm is None:
        sys.stderr.write("check-examples: npm is not installed; it comes with Node.js\n")
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    # A module, so that `await` may stand at the top.
    (FOLDER / "package.json").write_text('{"type": "module", "private": true}\n')
    installing = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    subprocess.run(installing, cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    page = (ROOT / "examples" / "supabase-js.md").read_text()
    code = "\n".join(re.findall(r"^```js\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL))
    (FOLDER / "page.js").write_text(code.replace('import("./types")', 'import("./types.js")'))
    shutil.copyfile(ROOT / "examples" / "types.ts", FOLDER / "types.ts")
    (FOLDER / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    return subprocess.run(TSC.split(), cwd=FOLDER, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
