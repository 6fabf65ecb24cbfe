"""Checks the GLB files of a mesh with glTF's own validator, and reads them with glTF Transform as apps do.

Needs npm; fetches two packages into `.venv/check-gltf`. Run it with `make check-gltf`. The model is the tiny network's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from worker.ml.mesh.making import Colouring, MeshRequest, make_mesh
from worker.ml.networks.triposr import loading
from worker.ml.networks.triposr.tiny import build_tiny

FOLDER = Path(__file__).parent.parent / ".venv" / "check-gltf"
PACKAGES = ("gltf-validator@2.0.0-dev.3.10", "@gltf-transform/core@4.5.1")
COLOURINGS: tuple[Colouring, ...] = ("vertex", "baked")
WANTED = {
    "vertex": {"POSITION": "5126 false", "NORMAL": "5126 false", "COLOR_0": "5123 true"},
    "baked": {"POSITION": "5126 false", "NORMAL": "5126 false", "TEXCOORD_0": "5126 false"},
}
"""Attributes with their component type, float or unsigned 16 bits, and whether it is normalized."""
SCRIPT = """
import { readFileSync } from "node:fs";
import { NodeIO } from "@gltf-transform/core";
import validator from "gltf-validator";

const report = await validator.validateBytes(new Uint8Array(readFileSync(process.argv[2])));
const document = await new NodeIO().read(process.argv[2]);
const [primitive] = document.getRoot().listMeshes()[0].listPrimitives();
const material = primitive.getMaterial();
const normals = primitive.getAttribute("NORMAL");
const lengths = Array.from({ length: normals.getCount() }, (_, i) => Math.hypot(...normals.getElement(i, [])));
const attributes = primitive.listSemantics().map((name) => {
  const accessor = primitive.getAttribute(name);
  return [name, `${accessor.getComponentType()} ${accessor.getNormalized()}`];
});
console.log(JSON.stringify({
  problems: report.issues.messages,
  attributes: Object.fromEntries(attributes),
  unit: lengths.every((length) => Math.abs(length - 1) < 1e-4),
  matt: material.getMetallicFactor() === 0 && material.getRoughnessFactor() === 1,
  textured: material.getBaseColorTexture() !== null,
}));
"""


def main() -> int:
    """Exit code 0 when no file has a problem; what is wrong goes to stdout."""
    npm = shutil.which("npm")
    if npm is None:
        sys.stderr.write("check-gltf: npm is not installed; it comes with Node.js\n")
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text('{"type": "module", "private": true}\n')
    (FOLDER / "check.js").write_text(SCRIPT)
    installing = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    subprocess.run(installing, cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as name:
        found = {colouring: problems(make(Path(name), colouring), colouring) for colouring in COLOURINGS}
    for colouring, lines in found.items():
        print(f"{colouring}: {'; '.join(lines) or 'no problem'}")
    return 1 if any(found.values()) else 0


def make(folder: Path, colouring: Colouring) -> Path:
    """Make a model of a red square on grey."""
    build_tiny(folder)
    picture = np.full((128, 128, 3), 127, np.uint8)
    picture[32:96, 32:96] = (205, 70, 45)
    run = make_mesh(loading.load(folder, device="cpu"), picture, MeshRequest(48, colouring, max_faces=4000), folder)
    while True:
        try:
            next(run)
        except StopIteration as end:
            model: Path = end.value.files[0]
            return model


def problems(model: Path, colouring: Colouring) -> list[str]:
    checked = subprocess.run(["node", "check.js", model], cwd=FOLDER, check=True, capture_output=True, text=True)
    seen = json.loads(checked.stdout)
    wrong = [f"{issue['code']} at {issue.get('pointer')}: {issue['message']}" for issue in seen["problems"]]
    if seen["attributes"] != WANTED[colouring]:
        wrong.append(f"attributes are {seen['attributes']}")
    if seen["textured"] != (colouring == "baked"):
        wrong.append("the texture is missing" if colouring == "baked" else "there is a texture")
    return wrong + [f"not {quality}" for quality in ("unit", "matt") if not seen[quality]]


if __name__ == "__main__":
    sys.exit(main())
