"""Train the transformer and its text encoders on encoded drawings."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import Any

import torch

from tools.small_base import drawings
from tools.small_base.autoencoder import write_sheet
from tools.small_base.drawings import WORK
from tools.small_base.latents import Encoded, encoded, standard_autoencoder
from tools.small_base.model import Base, Grid, Reader, Recall, loss_of
from tools.small_base.muon import Muon
from tools.small_base.people import Shown
from tools.small_base.sampling import sampled
from tools.small_base.text import caption
from tools.small_base.training import Average, Run, budget

FOLDER = WORK / "transformer"
BATCH = 32
GRIDS: dict[int, Grid] = {63: (9, 7), 64: (8, 8)}  # by the number of tokens
MUON_RATE, ADAMW_RATE = 3e-3, 1.5e-3
RECALL = 0.1  # weight of `Recall`'s losses
AVERAGE = 0.999
LOG_EVERY, CHECK_EVERY, RESCAN_EVERY = 50, 500, 250
SHEET_EVERY_S = 900
PROMPTS = (
    "photo of a woman with long red hair and round blue glasses, wearing a green hoodie, at the beach, evening sun",
    "photo of a man with a bald head and a full beard, dark skin, wearing a red shirt, in a library, smiling",
    "photo of a woman with black hair in a bun, tan skin, wearing a yellow t-shirt, in a park, laughing",
    "photo of a man with spiky blond hair, square black glasses, wearing a blue blazer, in the city at night",
    "photo of a person, wearing a purple turtleneck, in front of a plain wall, soft light",
    "photo of ohwx3fa81c, wearing a striped jumper, in the mountains",
    "photo of a woman with curly grey hair, brown skin, round red glasses, in a kitchen",
    "a man with short white hair and a moustache, wearing an orange striped jumper, in front of a brick wall",
)


class Pictures:
    """Batches of encoded drawings of one size, with new captions each time."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._shards: dict[int, Encoded] = {}
        self.rescan()

    def rescan(self) -> None:
        """Load shards that have been encoded since."""
        self._shards |= dict(encoded(number for number in range(drawings.SHARDS) if number not in self._shards))
        self._by_size: dict[int, list[Encoded]] = defaultdict(list)
        for shard in self._shards.values():
            self._by_size[shard.latents.shape[1]].append(shard)

    @property
    def count(self) -> int:
        return sum(len(shard.shown) for shard in self._shards.values())

    def batch(self) -> tuple[torch.Tensor, list[Shown], list[str], Grid]:
        chance = self._chance
        tokens = 64 if chance.random() < 0.25 else 63
        chosen = [chance.choice(self._by_size[tokens]) for _ in range(BATCH)]
        indices = [chance.randrange(len(shard.shown)) for shard in chosen]
        clean = torch.stack([shard.latents[i] for shard, i in zip(chosen, indices, strict=True)]).float()
        shown = [shard.shown[i] for shard, i in zip(chosen, indices, strict=True)]
        return clean, shown, [caption(each, chance) for each in shown], GRIDS[tokens]


def noised(clean: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the transformer's input, its time, and its target."""
    time = torch.randn(len(clean), generator=generator).sigmoid()  # logit-normal, arXiv 2403.03206
    noise = torch.randn(clean.shape, generator=generator)
    at = time[:, None, None]
    return (1 - at) * clean + at * noise, time, noise - clean


class Optimizers:
    """Muon for the matrices inside blocks, AdamW for everything else."""

    def __init__(self, base: Base, recall: Recall) -> None:
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = [*recall.parameters()]
        for name, weight in base.named_parameters():
            if not weight.requires_grad:
                continue
            inside = "block" in name or "layers" in name
            simple = weight.ndim == 1 or "norm" in name or "relative_attention_bias" in name
            (matrices if inside and not simple else others).append(weight)
        self._muon = Muon(matrices, lr=MUON_RATE)
        self._adamw = torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, rate: float) -> None:
        for optimizer, highest in ((self._muon, MUON_RATE), (self._adamw, ADAMW_RATE)):
            optimizer.param_groups[0]["lr"] = highest * rate
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


class HeldOut:
    """The loss on held-out drawings, always with the same noise and captions."""

    def __init__(self, reader: Reader) -> None:
        generator, chance = torch.Generator().manual_seed(0), random.Random(0)
        _, shard = next(iter(encoded(drawings.HELD_OUT)))
        self._parts = []
        for at in range(0, 256, BATCH):
            clean = shard.latents[at : at + BATCH].float()
            captions = [caption(shown, chance) for shown in shard.shown[at : at + BATCH]]
            self._parts.append((*noised(clean, generator), reader(captions), GRIDS[clean.shape[1]]))

    @torch.no_grad()
    def loss(self, base: Base) -> float:
        losses = [loss_of(base(seen, at, text, grid), wanted) for seen, at, wanted, text, grid in self._parts]
        return float(torch.stack(losses).mean())


def write_samples(base: Base, reader: Reader, name: str) -> None:
    """The prompts above, a column each, four seeds."""
    vae = standard_autoencoder()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pictures = [vae.decode(sampled(base, reader, PROMPTS, seed).float()).sample for seed in range(4)]
    write_sheet(torch.cat(pictures).float(), FOLDER / name, columns=len(PROMPTS))


def main() -> None:
    run = Run(FOLDER, budget(__doc__, minutes=120))
    torch.manual_seed(0)
    reader = Reader()
    base, smooth = Base(reader), Base(reader).eval()
    recall = Recall(reader)
    optimizers, average = Optimizers(base, recall), Average(base, AVERAGE)
    saved = run.resume()
    if saved:
        base.load_state_dict(saved["base"])
        average.weights = saved["average"]
    if saved and "optimizers" in saved:  # missing after `shipped`
        recall.load_state_dict(saved["recall"])
        optimizers.load_state_dict(saved["optimizers"])
    pictures, held_out = Pictures(run.step), HeldOut(reader)
    print(f"{pictures.count} pictures", flush=True)
    generator = torch.Generator().manual_seed(run.step)
    velocity = torch.compile(base.velocity, dynamic=False)
    losses: list[tuple[float, ...]] = []
    sheet_at = time.monotonic() + 300

    def save() -> None:
        learnt = {"base": base.state_dict(), "average": average.weights, "recall": recall.state_dict()}
        run.save(learnt | {"optimizers": optimizers.state_dict()})

    while not run.over:
        clean, shown, captions, grid = pictures.batch()
        seen, at, wanted = noised(clean, generator)
        tokens = reader(captions)
        with torch.autocast("cpu", torch.bfloat16):
            text, pooled = base.read(tokens)
            predicted = velocity(seen, at, text, pooled, grid)
        loss = loss_of(predicted, wanted)
        words, looks = recall(text.float(), pooled.float(), tokens, shown)
        (loss + RECALL * (words + looks)).backward()
        torch.nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        optimizers.step(run.rate())
        average.add(base, run.step)
        run.step += 1
        losses.append((loss.item(), words.item(), looks.item()))
        if run.step % LOG_EVERY == 0:
            means = [sum(each) / len(each) for each in zip(*losses, strict=True)]
            figures = dict(zip(("loss", "words", "looks"), means, strict=True))
            losses.clear()
            if run.step % CHECK_EVERY == 0:
                smooth.load_state_dict(average.weights)
                figures["held_out"] = held_out.loss(smooth)
                save()
            run.log(**figures)
        if run.step % RESCAN_EVERY == 0:
            pictures.rescan()
        if time.monotonic() > sheet_at:
            sheet_at = time.monotonic() + SHEET_EVERY_S
            smooth.load_state_dict(average.weights)
            write_samples(smooth, reader, f"sheet-{run.spent_s / 60:03.0f}.png")
    save()
    smooth.load_state_dict(average.weights)
    run.log(held_out=held_out.loss(smooth))
    write_samples(smooth, reader, f"sheet-{run.spent_s / 60:03.0f}.png")


if __name__ == "__main__":
    main()
