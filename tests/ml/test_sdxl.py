"""What SDXL alone has: two text encoders side by side, and how a picture is framed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from tests.ml.families import only_sdxl
from tests.ml.runs import predict
from worker.ml import models
from worker.ml.models import Base
from worker.ml.protocol import Framing

pytestmark = only_sdxl

GRID = (16, 12)
WHOLE = Framing(original=(128, 96), crop=(0, 0), size=(128, 96))


def prediction(base: Base, *framings: Framing) -> torch.Tensor:
    """What the denoiser predicts for the same latents framed so; a picture that is drawn, without framings."""
    condition = base.family.encode_prompts(base.parts, ["a photo"] * max(1, len(framings)), base.device)
    if framings:
        condition = base.family.frame(condition, framings)
    latents = torch.randn((1, 4, *GRID), generator=torch.Generator().manual_seed(0)).expand(condition.rows, 4, *GRID)
    with torch.no_grad():
        return predict(base, latents, torch.tensor([500]).expand(condition.rows), condition, GRID)


def test_a_picture_is_drawn_as_a_photo_that_was_trained_whole(base: Base) -> None:
    assert torch.equal(prediction(base, WHOLE), prediction(base))


@pytest.mark.parametrize("field", ["original", "crop", "size"])
def test_the_denoiser_is_told_how_each_photo_was_framed(base: Base, field: str) -> None:
    """Height before width: the other way round is another picture."""
    one, other = (Framing(**{**vars(WHOLE), field: sides}) for sides in ((512, 64), (64, 512)))
    first, second = prediction(base, one, other).split(1)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(first, prediction(base, one))
    assert not torch.allclose(first, prediction(base, WHOLE))


def test_the_framing_of_the_rows_that_are_taken_goes_with_them(base: Base) -> None:
    prompts = base.family.encode_prompts(base.parts, ["a photo", "a red wall"], base.device)
    framings = [WHOLE, Framing((1001, 777), (3, 5), (64, 32))]
    framed = base.family.frame(prompts, framings)
    taken = framed.take(torch.tensor([False, True]))
    assert taken.sizes.tolist() == [[1001, 777, 3, 5, 64, 32]]
    assert torch.equal(taken.tokens, prompts.tokens[1:])
    assert framed.join([taken]).sizes.tolist() == [*framed.sizes.tolist(), *taken.sizes.tolist()]


def test_the_size_of_a_photo_is_exact_in_half_precision_too(tiny_base: Path) -> None:
    """bfloat16 would make 1000 of 1001."""
    half = models.load(tiny_base, "cpu", torch.bfloat16)
    prompts = half.family.encode_prompts(half.parts, ["a photo"], half.device)
    assert half.family.frame(prompts, [Framing((1001, 777), (3, 5), (64, 32))]).sizes[0, 0] == 1001


def test_the_hidden_states_of_both_encoders_are_the_last_but_one_and_the_second_one_is_pooled(base: Base) -> None:
    prompt = "a photo of a person, smiling"
    encoded = base.family.encode_prompts(base.parts, [prompt], base.device)
    parts: StableDiffusionXLPipeline = base.parts
    states = []
    with torch.no_grad():
        for tokenizer, encoder in (
            (parts.tokenizer, parts.text_encoder),
            (parts.tokenizer_2, parts.text_encoder_2),
        ):
            ids = tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
            output = encoder(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2])
    assert torch.equal(encoded.tokens, torch.cat(states, dim=-1))
    assert torch.equal(encoded.pooled, output.text_embeds)
