"""`worker lora export`: the same LoRA in the names that another program reads."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.app import App
from tests.forked import Commands
from tests.ml.keys import listed_keys
from tests.processes import worker_environment
from worker.commands.lora_export import export
from worker.errors import CommandRefused
from worker.ml.adapters import files as lora_files
from worker.ml.adapters.names import Pair
from worker.ml.families import lora

RANK = 4
SINGLE = "transformer.single_transformer_blocks.0"
DOUBLE = "transformer.transformer_blocks.0"


def random_lora(
    layers: dict[str, tuple[int, ...]], sides: tuple[str, str] = ("lora_A", "lora_B")
) -> dict[str, torch.Tensor]:
    """Random factors for layers of (in, out) features, or convolutions of one pixel where a kernel follows."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for layer, (inputs, outputs, *kernel) in layers.items():
        for side, shape in zip(sides, ((RANK, inputs), (outputs, RANK)), strict=True):
            state[f"{layer}.{side}.weight"] = torch.randn(*shape, *kernel, generator=generator)
    return state


def flux_layers(width: int) -> dict[str, tuple[int, ...]]:
    """Return the trained layers of one block of each kind."""
    square, wide = (width, width), (width, 4 * width)
    return {
        **{f"{DOUBLE}.attn.{name}": square for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **{f"{DOUBLE}.attn.{name}": square for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")},
        **{f"{DOUBLE}.{name}.net.0.proj": wide for name in ("ff", "ff_context")},
        **{f"{DOUBLE}.{name}.net.2": wide[::-1] for name in ("ff", "ff_context")},
        **{f"{SINGLE}.attn.{name}": square for name in ("to_q", "to_k", "to_v")},
    }


def pairs_of(path: Path) -> dict[str, Pair]:
    return lora_files.read_pairs(path, lora_files.read_header(path))


def deltas(path: Path) -> dict[str, torch.Tensor]:
    """What each layer of a file adds to its weights."""
    return {layer: b.flatten(1) @ a.flatten(1) for layer, (a, b) in pairs_of(path).items()}


@pytest.fixture
def flux_file(tmp_path: Path) -> Path:
    path = tmp_path / "flux.safetensors"
    lora_files.write(path, random_lora(flux_layers(48)), {"trigger_word": "ohwx", "ss_network_dim": "4"})
    return path


@pytest.fixture
def sd15_file(tmp_path: Path) -> Path:
    shapes = listed_keys("sd15_kohya_unet_keys.txt")
    sizes = {name: shape for name, shape in shapes.items() if "_down_blocks_0_" in name or "_mid_block_" in name}
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "sd15.safetensors"
    state = {name: torch.randn(shape, generator=generator) for name, shape in sizes.items() if shape}
    lora_files.write(path, state, {})
    return path


def test_a_flux_lora_gets_the_names_that_sd_scripts_writes(flux_file: Path, tmp_path: Path) -> None:
    """The list has a second block of each kind, and layers that are not trained here."""
    out = tmp_path / "kohya.safetensors"
    export(str(flux_file), "kohya", out)
    written = {name: list(tensor.shape) for name, tensor in load_file(out).items()}
    listed = {name: shape for name, shape in listed_keys("flux_kohya_keys.txt").items() if "_blocks_0_" in name}
    untrained = ("_mod_lin", "modulation_lin", "linear2")
    assert written.keys() == {name for name in listed if not any(word in name for word in untrained)}
    for name, shape in written.items():
        fused = 3 if "qkv" in name or "linear1" in name else 1
        (grown,) = [axis for axis, size in enumerate(shape) if size != listed[name][axis]] or [None]
        assert (grown is None) == (fused == 1 or not shape)
        assert grown is None or shape[grown] == fused * RANK
    header = lora_files.read_header(out)
    assert (lora.family_of(out.name, header.layers).family, header.naming, header.rank) == ("flux", "kohya", 12)
    metadata = header.metadata
    assert (metadata["trigger_word"], metadata["ss_network_module"], metadata["ss_network_dim"]) == (
        "ohwx",
        "networks.lora_flux",
        "12",
    )


def test_fused_layers_have_the_effect_of_their_parts(flux_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "kohya.safetensors"
    export(str(flux_file), "kohya", out)
    before, after = deltas(flux_file), deltas(out)
    query, key, value = (before[f"{DOUBLE}.attn.{name}"] for name in ("to_q", "to_k", "to_v"))
    torch.testing.assert_close(after["lora_unet_double_blocks_0_img_attn_qkv"], torch.cat([query, key, value]))
    parts = [before[f"{SINGLE}.attn.{name}"] for name in ("to_q", "to_k", "to_v")]
    feed_forward = torch.zeros(192, 48)  # not trained
    torch.testing.assert_close(after["lora_unet_single_blocks_0_linear1"], torch.cat([*parts, feed_forward]))
    assert torch.equal(after["lora_unet_double_blocks_0_txt_mlp_2"], before[f"{DOUBLE}.ff_context.net.2"])


def test_diffusers_reads_an_exported_flux_lora_as_the_original(tmp_path: Path) -> None:
    """diffusers' reader supports FLUX only at its real width."""
    original, out = tmp_path / "flux.safetensors", tmp_path / "kohya.safetensors"
    lora_files.write(original, random_lora(flux_layers(3072)), {})
    export(str(original), "kohya", out)
    read = FluxPipeline.lora_state_dict(load_file(out))
    for layer, (a, b) in pairs_of(original).items():
        torch.testing.assert_close(
            read[f"{layer}.lora_B.weight"] @ read[f"{layer}.lora_A.weight"][:, :64], b @ a[:, :64], rtol=1e-4, atol=1e-3
        )


def test_exporting_a_flux_lora_and_back_gives_the_original(flux_file: Path, tmp_path: Path) -> None:
    kohya, back = tmp_path / "kohya.safetensors", tmp_path / "back.safetensors"
    export(str(flux_file), "kohya", kohya)
    export(str(kohya), "diffusers", back)
    before, after = deltas(flux_file), deltas(back)
    assert after.keys() == before.keys(), "parts that were not trained are not added"
    for layer in before:
        torch.testing.assert_close(after[layer], before[layer])


def test_a_stable_diffusion_lora_gets_diffusers_names_and_the_same_weights(sd15_file: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "diffusers.safetensors", tmp_path / "back.safetensors"
    export(str(sd15_file), "diffusers", out)
    written = {name: list(tensor.shape) for name, tensor in load_file(out).items()}
    listed = listed_keys("sd15_diffusers_peft_keys.txt")
    attention = {name: shape for name, shape in written.items() if ".attn" in name}
    assert attention.items() <= listed.items()
    assert len(attention) == 2 * 8 * 3

    theirs, alphas = StableDiffusionPipeline.lora_state_dict(load_file(sd15_file))
    assert set(alphas.values()) == {RANK}
    names = {name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): t for name, t in theirs.items()}
    legacy = {
        name.replace(".processor.", ".").replace("_lora.down.", ".lora_A.").replace("_lora.up.", ".lora_B."): t
        for name, t in names.items()
    }
    read = {name.replace(".to_out.lora_", ".to_out.0.lora_"): tensor for name, tensor in legacy.items()}
    ours = load_file(out)
    assert ours.keys() == read.keys()
    assert all(torch.equal(ours[name], read[name]) for name in ours)

    export(str(out), "kohya", back)
    before, after = load_file(sd15_file), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_alpha_is_folded_in(sd15_file: Path, tmp_path: Path) -> None:
    halved, out = tmp_path / "halved.safetensors", tmp_path / "out.safetensors"
    state = load_file(sd15_file)
    save_file({n: t / 2 if n.endswith(".alpha") else t for n, t in state.items()}, halved)
    export(str(halved), "diffusers", out)
    whole, half = deltas(sd15_file), deltas(out)
    assert len(whole) == len(half)
    for layer, delta in half.items():
        torch.testing.assert_close(delta, whole["lora_" + layer.replace(".", "_")] / 2)


def test_alpha_that_the_metadata_states_is_folded_in(flux_file: Path, tmp_path: Path) -> None:
    """As newer diffusers scripts write it. It must not stay in the metadata, or a reader would use it again."""
    halved, out = tmp_path / "halved.safetensors", tmp_path / "out.safetensors"
    stated = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": RANK / 2})
    lora_files.write(halved, load_file(flux_file), {"lora_adapter_metadata": stated})
    export(str(halved), "kohya", out)
    assert "lora_adapter_metadata" not in lora_files.read_header(out).metadata
    export(str(flux_file), "kohya", tmp_path / "whole.safetensors")
    whole, half = deltas(tmp_path / "whole.safetensors"), deltas(out)
    assert len(whole) == len(half)
    for layer, delta in half.items():
        torch.testing.assert_close(delta, whole[layer] / 2)


def test_a_file_that_exists_is_not_overwritten(flux_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(CommandRefused, match="already exists"):
        export(str(flux_file), "kohya", out)
    assert out.read_bytes() == b"precious"


def test_an_unsupported_file_is_refused_by_name(flux_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    dora = tmp_path / "dora.safetensors"
    save_file({**load_file(flux_file), f"{SINGLE}.attn.to_q.lora_magnitude_vector": torch.ones(48)}, dora)
    without_alpha = tmp_path / "without_alpha.safetensors"
    lora_files.write(without_alpha, random_lora(flux_layers(48)), {"lora_adapter_metadata": '{"transformer.r": 4}'})
    narrow = tmp_path / "narrow.safetensors"
    lora_files.write(narrow, random_lora({**flux_layers(48), f"{SINGLE}.attn.to_q": (48, 1)}), {})
    wide = tmp_path / "wide.safetensors"
    lora_files.write(wide, random_lora({**flux_layers(48), f"{SINGLE}.attn.to_v": (64, 64)}), {})
    zero = tmp_path / "zero.safetensors"
    lora_files.write(
        zero,
        {
            "lora_unet_single_blocks_0_linear1.lora_down.weight": torch.ones(4, 8),
            "lora_unet_single_blocks_0_linear1.lora_up.weight": torch.zeros(56, 4),
        },
        {},
    )
    for source, naming, why in (
        (narrow, "kohya", "of an unknown family: its layer .*to_q maps 48 to 1 features"),
        (wide, "kohya", "to_v is 64 to 64, which cannot be fused"),
        (zero, "diffusers", r"zero\.safetensors has no effect"),
        (flux_file, "diffusers", r"flux\.safetensors already has diffusers names"),
        (tmp_path / "gone.safetensors", "kohya", r"file not found: .*gone\.safetensors"),
        (dora, "kohya", r"dora\.safetensors is a DoRA"),
        (without_alpha, "kohya", "states no alpha for .*to_k in its lora_adapter_metadata"),
    ):
        with pytest.raises(CommandRefused, match=why):
            export(str(source), naming, out)
    with pytest.raises(CommandRefused, match=r"end in \.safetensors"):
        export(str(flux_file), "kohya", tmp_path / "out.pt")
    with pytest.raises(CommandRefused, match=r"writing .* failed"):
        export(str(flux_file), "kohya", tmp_path / "nowhere" / "out.safetensors")
    assert not out.exists()


# -- by the id of a row


def publish(app: App, subject: UUID, file: Path) -> UUID:
    """Add a row and its object, as a training publishes them."""
    model = app.add_lora(subject)
    key, content = f"{subject}/{uuid4()}/1/lora.safetensors", file.read_bytes()
    app.s3.put_object(Bucket=app.models, Key=key, Body=content)
    digest = hashlib.sha256(content).hexdigest()
    app.run("update public.subjects_models set path = %s, sha256 = %s where id = %s", key, digest, model)
    return model


def test_a_published_lora_is_exported_by_its_id_only_with_consent(
    app: App, commands: Commands, flux_file: Path, tmp_path: Path
) -> None:
    subject = app.add_subject()
    model, environment = publish(app, subject, flux_file), worker_environment(app, tmp_path)
    words = ["lora", "export", str(model), "--format", "kohya", "--output"]
    done = commands.run([*words, "out.safetensors"], environment, tmp_path)
    assert done.code == 0, done.stderr
    assert "flux" in done.stdout
    export(str(flux_file), "kohya", tmp_path / "expected.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()

    app.run("select public.revoke_consent(%s)", subject)
    refused = commands.run([*words, "again.safetensors"], environment, tmp_path)
    assert refused.code == 1
    assert str(model) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "again.safetensors").exists()


def test_an_unknown_id_and_a_changed_object_are_refused(
    app: App, flux_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in worker_environment(app, tmp_path).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    out = tmp_path / "out.safetensors"
    with pytest.raises(CommandRefused, match="LoRA not found"):
        export(str(uuid4()), "kohya", out)
    model = publish(app, app.add_subject(), flux_file)
    key = app.one("select path from public.subjects_models where id = %s", model)
    app.s3.put_object(Bucket=app.models, Key=key, Body=b"another")
    with pytest.raises(CommandRefused, match="differs from the published one"):
        export(str(model), "kohya", out)
    app.s3.delete_object(Bucket=app.models, Key=key)
    with pytest.raises(CommandRefused, match=r"lora\.safetensors"):
        export(str(model), "kohya", out)
    assert not out.exists()
