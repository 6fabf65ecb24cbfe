"""A mesh as a file that others open: GLB, OBJ with its material, or STL, written by trimesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from worker.ml.extra_packages import imported
from worker.ml.mesh.shape import Colours, Mesh
from worker.ml.photos.colours import light_from_srgb

Format = Literal["glb", "obj", "stl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_COLOURS = "_COLOR_0"
"""trimesh writes a vertex's own attributes under names with an underscore: this one becomes glTF's COLOR_0."""
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
"""glTF's numbers for a buffer of vertices and one of triangles."""
_MATERIAL = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
"""glTF's default is metal, which viewers show nearly black."""


def write(mesh: Mesh, file_format: Format, folder: Path) -> list[Path]:
    """Write a mesh into a folder and return its files, the model itself first. An STL has no colours."""
    match file_format:
        case "glb":
            return [_write_bytes(folder / "mesh.glb", _glb(mesh))]
        case "obj":
            return _write_obj(mesh, folder)
        case "stl":
            trimesh = imported("trimesh")
            return [_write_bytes(folder / "mesh.stl", trimesh.exchange.stl.export_stl(_plain(mesh)))]


def _glb(mesh: Mesh) -> bytes:
    """Return a binary glTF with normals and a matt material. Colours of vertices are linear light, 16 bits each.

    glTF defines them as linear, while textures are sRGB; in 8 bits, linear dark colours would show steps.
    """
    trimesh = imported("trimesh")
    plain = _plain(mesh)
    material = trimesh.visual.material.PBRMaterial(name="matt", **_MATERIAL)
    if mesh.texture is not None:
        material.baseColorTexture = Image.fromarray(mesh.texture.pixels)
    plain.visual = trimesh.visual.TextureVisuals(uv=_trimesh_uv(mesh), material=material)
    if mesh.colours is not None:
        linear = light_from_srgb(mesh.colours.astype(np.float64))
        opaque = np.column_stack([linear, np.ones(len(linear))])  # three colours are 6 bytes, and glTF aligns to 4
        plain.vertex_attributes[_COLOURS] = (opaque * 65535).round().astype(np.uint16)
    written: bytes = trimesh.exchange.gltf.export_glb(
        trimesh.Scene(plain), include_normals=True, tree_postprocessor=_completed
    )
    return written


def _completed(tree: dict[str, Any]) -> None:
    """Turn the attribute with colours into glTF's own, whose numbers mean 0…1, and say what each buffer is for."""
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            attributes = primitive["attributes"]
            if _COLOURS in attributes:
                attributes["COLOR_0"] = attributes.pop(_COLOURS)
                tree["accessors"][attributes["COLOR_0"]]["normalized"] = True
            for accessor in attributes.values():
                _view(tree, accessor)["target"] = _ARRAY_BUFFER
            _view(tree, primitive["indices"])["target"] = _ELEMENT_ARRAY_BUFFER


def _view(tree: dict[str, Any], accessor: int) -> dict[str, Any]:
    view: dict[str, Any] = tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]
    return view


def _write_obj(mesh: Mesh, folder: Path) -> list[Path]:
    """Write Wavefront's format: its colours are sRGB, of the vertices or in a picture that its material names."""
    trimesh = imported("trimesh")
    plain = _plain(mesh)
    if mesh.texture is not None:
        material = trimesh.visual.material.SimpleMaterial(image=Image.fromarray(mesh.texture.pixels), diffuse=[255] * 4)
        plain.visual = trimesh.visual.TextureVisuals(uv=_trimesh_uv(mesh), material=material)
    elif mesh.colours is not None:
        plain.visual = trimesh.visual.ColorVisuals(plain, vertex_colors=eight_bits(mesh.colours))
    text, others = trimesh.exchange.obj.export_obj(plain, include_normals=True, return_texture=True)
    model = _write_bytes(folder / "mesh.obj", text.encode())
    return [model, *(_write_bytes(folder / name, content) for name, content in others.items())]


def eight_bits(colours: Colours) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return colours as 8-bit sRGB."""
    return (colours * 255).round().astype(np.uint8)


def _plain(mesh: Mesh) -> Any:
    """Return trimesh's object of the geometry, exactly as it is."""
    trimesh = imported("trimesh")
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False, validate=False)


def _trimesh_uv(mesh: Mesh) -> Any:
    """Return texture coordinates as trimesh has them: from the lower left corner."""
    if mesh.texture is None:
        return None
    return np.column_stack([mesh.texture.uv[:, 0], 1 - mesh.texture.uv[:, 1]])


def _write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
