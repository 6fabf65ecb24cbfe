"""Who is drawn, and where: people who do not exist, and the scenes they are photographed in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from worker.demo.drawing.canvas import Colour

HairStyle = Literal["curly", "long", "bob", "bun", "short", "spiky", "cropped", "bald"]
Beard = Literal["full", "goatee", "moustache"]
Glasses = Literal["round", "square"]
Clothes = Literal["t-shirt", "striped jumper", "shirt", "hoodie", "blazer", "turtleneck"]
Setting = Literal[
    "studio",
    "park",
    "beach",
    "street",
    "city at night",
    "library",
    "kitchen",
    "mountains",
    "autumn wood",
    "brick wall",
]
Light = Literal["soft light", "sun from the left", "sun from the right", "evening sun", "shade", "lamplight"]
Expression = Literal["calm", "smiling", "laughing"]

SKINS: tuple[Colour, ...] = (
    (250, 221, 203), (240, 200, 172), (222, 172, 136), (190, 136, 98), (148, 98, 66), (104, 66, 46),
    (78, 50, 38),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (36, 30, 32), (74, 48, 34), (120, 76, 44), (186, 84, 36), (222, 180, 104), (168, 166, 168),
    (232, 228, 222),
)  # fmt: skip
EYES: tuple[Colour, ...] = ((92, 60, 38), (66, 120, 76), (70, 116, 168), (120, 130, 136))
FRAMES: tuple[Colour, ...] = ((28, 28, 32), (172, 46, 52), (28, 86, 122), (196, 150, 70))

CLOTHES_COLOURS: dict[str, Colour] = {
    "red": (188, 46, 48), "blue": (46, 86, 166), "green": (44, 122, 82), "yellow": (236, 184, 54),
    "white": (240, 238, 232), "black": (44, 44, 50), "purple": (116, 72, 150), "orange": (228, 118, 44),
    "grey": (138, 142, 150), "pink": (232, 142, 160), "teal": (30, 132, 140), "beige": (212, 190, 156),
}  # fmt: skip

LIGHTS: dict[Setting, tuple[Light, ...]] = {
    "studio": ("soft light", "sun from the left", "sun from the right"),
    "park": ("soft light", "sun from the left", "sun from the right", "shade"),
    "beach": ("sun from the left", "sun from the right", "evening sun"),
    "street": ("soft light", "shade", "sun from the right", "evening sun"),
    "city at night": ("lamplight",),
    "library": ("soft light", "lamplight"),
    "kitchen": ("soft light", "sun from the left"),
    "mountains": ("sun from the left", "sun from the right", "shade"),
    "autumn wood": ("soft light", "evening sun"),
    "brick wall": ("soft light", "sun from the left", "shade"),
}
PLACES: dict[Setting, str] = {
    "studio": "in front of a plain wall", "park": "in a park", "beach": "at the beach",
    "street": "in a street",
    "city at night": "in the city at night", "library": "in a library", "kitchen": "in a kitchen",
    "mountains": "in the mountains", "autumn wood": "in an autumn wood",
    "brick wall": "in front of a brick wall",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """What stays the same from photograph to photograph.

    Attributes:
        face_width: about 1.
        jaw: 0 pointed … 1 square.
        nose: width, about 1.
        lips: 0 thin … 1 full.
        brows: thickness, about 1.
        shoulders: width, about 1.
    """

    skin: Colour
    hair_style: HairStyle
    hair: Colour
    eyes: Colour
    face_width: float = 1.0
    jaw: float = 0.4
    nose: float = 1.0
    lips: float = 0.5
    brows: float = 1.0
    shoulders: float = 1.0
    glasses: Glasses | None = None
    frame: Colour = FRAMES[0]
    beard: Beard | None = None
    freckles: bool = False
    lashes: bool = False
    earrings: bool = False

    @classmethod
    def example(cls) -> Person:
        """Return the demo's person: copper curls, round teal glasses, freckles."""
        return cls(
            skin=(246, 210, 188), hair_style="curly", hair=(190, 86, 36), eyes=(62, 124, 84),
            face_width=0.97, jaw=0.25,
            lips=0.75, brows=0.9, shoulders=0.9, glasses="round", frame=(24, 104, 118), freckles=True,
            lashes=True,
            earrings=True,
        )  # fmt: skip

    @classmethod
    def other(cls) -> Person:
        """Return a person unlike `example` in every trait: dark skin, cropped black hair, a full beard."""
        return cls(
            skin=(120, 78, 54), hair_style="cropped", hair=(30, 26, 28), eyes=(74, 48, 32), face_width=1.03,
            jaw=0.9,
            nose=1.2, lips=0.6, brows=1.35, shoulders=1.1, beard="full",
        )  # fmt: skip

    @classmethod
    def random(cls, seed: int) -> Person:
        """Return a random person; the same seed gives the same person."""
        chance = random.Random(seed)  # noqa: S311 - drawing, not secrets
        masculine = chance.random() < 0.5
        skin = chance.choice(SKINS)
        dark = SKINS.index(skin) >= 4
        styles: tuple[HairStyle, ...] = (
            ("short", "spiky", "cropped", "bald", "curly") if masculine else ("curly", "long", "bob", "bun", "short")
        )
        beards: tuple[Beard | None, ...] = (None, "full", "goatee", "moustache") if masculine else (None,)
        return cls(
            skin=skin,
            hair_style=chance.choice(styles),
            hair=chance.choice(HAIRS[:2] + HAIRS[5:6] if dark else HAIRS),
            eyes=chance.choice(EYES[:1] if dark else EYES),
            face_width=chance.uniform(0.93, 1.06),
            jaw=chance.uniform(0.5, 1.0) if masculine else chance.uniform(0.0, 0.5),
            nose=chance.uniform(0.85, 1.25),
            lips=chance.uniform(0.2, 0.6) if masculine else chance.uniform(0.4, 1.0),
            brows=chance.uniform(1.0, 1.5) if masculine else chance.uniform(0.7, 1.1),
            shoulders=chance.uniform(1.0, 1.15) if masculine else chance.uniform(0.85, 1.0),
            glasses=chance.choice((None, None, "round", "square")),
            frame=chance.choice(FRAMES),
            beard=chance.choice(beards),
            freckles=not dark and chance.random() < 0.25,
            lashes=not masculine,
            earrings=not masculine and chance.random() < 0.5,
        )


@dataclass(frozen=True)
class Scene:
    """What changes from photograph to photograph.

    Attributes:
        colour: of the clothes, a key of CLOTHES_COLOURS.
        turn: of the head, -1 to the picture's left … 1 to its right.
        tilt: of the head, degrees.
        zoom: 1 shows head and shoulders.
        offset: where the head is, in picture widths right of the middle.
        drop: where the head is, in picture heights below its usual place.
        variation: which of the many drawings of this setting.
    """

    clothes: Clothes = "t-shirt"
    colour: str = "blue"
    setting: Setting = "studio"
    light: Light = "soft light"
    expression: Expression = "calm"
    turn: float = 0.0
    tilt: float = 0.0
    zoom: float = 1.0
    offset: float = 0.0
    drop: float = 0.0
    variation: int = 0

    @property
    def caption(self) -> str:
        """Describe everything in a picture but the person: what must not be learnt as part of them."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        worn = f"wearing {article} {self.colour} {self.clothes}"
        side = "" if abs(self.turn) < 0.3 else ", turned to the left" if self.turn < 0 else ", turned to the right"
        mood = "" if self.expression == "calm" else f", {self.expression}"
        return f"{worn}, {PLACES[self.setting]}, {self.light}{side}{mood}"


def scenes(count: int, seed: int) -> list[Scene]:
    """Return `count` scenes that differ in everything: a setting, for example, is used again only after all others.

    The first scenes of a longer list with the same seed are the same.
    """
    clothes = _dealt(f"{seed} clothes", get_args(Clothes), count)
    colours = _dealt(f"{seed} colours", tuple(CLOTHES_COLOURS), count)
    settings = _dealt(f"{seed} settings", get_args(Setting), count)
    expressions = _dealt(f"{seed} expressions", get_args(Expression), count)
    turns = _dealt(f"{seed} turns", (-0.9, -0.55, -0.2, 0.0, 0.2, 0.55, 0.9), count)
    chances = [random.Random(f"{seed} {i}") for i in range(count)]  # noqa: S311 - drawing, not secrets
    return [
        Scene(
            clothes=clothes[i],
            colour=colours[i],
            setting=settings[i],
            light=chance.choice(LIGHTS[settings[i]]),
            expression=expressions[i],
            turn=turns[i] + chance.uniform(-0.1, 0.1),
            tilt=chance.uniform(-9, 9),
            zoom=chance.uniform(0.82, 1.18),
            offset=chance.uniform(-0.06, 0.06),
            variation=chance.randrange(1 << 16),
        )
        for i, chance in enumerate(chances)
    ]


# How far above the eyes each hair style reaches, in half widths of a face; the others are lower than curls.
HAIR_TOPS: dict[HairStyle, float] = {"bun": 2.26, "spiky": 1.98}
CURLS_TOP = 1.75


def close_up(person: Person, scene: Scene) -> Scene:
    """Return the scene from nearer, so that a face is large in a picture of 128 pixels and the hair still fits."""
    drop = scene.drop + 0.05
    # A face is 0.19 of three quarters of the picture's height wide at zoom 1 (see `portrait.draw`).
    fits = 0.97 * (0.43 + drop) / (0.19 * 0.75 * HAIR_TOPS.get(person.hair_style, CURLS_TOP))
    return replace(scene, zoom=min(1.42 * scene.zoom, fits), drop=drop)


T = TypeVar("T")


def _dealt(seed: str, values: Sequence[T], count: int) -> list[T]:
    """Return `count` values as dealt from shuffled packs: each comes once before any is repeated."""
    chance = random.Random(seed)  # noqa: S311 - drawing, not secrets
    cards: list[T] = []
    while len(cards) < count:
        cards += chance.sample(values, len(values))
    return cards[:count]
