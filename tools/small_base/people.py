"""The people and scenes that the base is trained on, drawn at random, with words for everything visible."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, get_args

from worker.demo.drawing.canvas import Colour
from worker.demo.drawing.person import (
    CLOTHES_COLOURS,
    EYES,
    HAIRS,
    LIGHTS,
    SKINS,
    Beard,
    Clothes,
    Expression,
    Glasses,
    HairStyle,
    Light,
    Person,
    Scene,
    Setting,
    close_up,
)

SKIN_WORDS: dict[str, tuple[Colour, ...]] = {
    "fair": SKINS[0:2],
    "tan": SKINS[2:4],
    "brown": SKINS[4:5],
    "dark": SKINS[5:7],
}
HAIR_WORDS: dict[str, tuple[Colour, ...]] = {
    "black": HAIRS[0:1],
    "brown": HAIRS[1:3],
    "red": HAIRS[3:4],
    "blond": HAIRS[4:5],
    "grey": HAIRS[5:6],
    "white": HAIRS[6:7],
}
FRAME_WORDS: dict[str, Colour] = {
    "black": (28, 28, 32),
    "red": (184, 44, 50),
    "blue": (40, 92, 182),
    "gold": (200, 152, 66),
    "teal": (24, 118, 124),
}
MENS_STYLES: tuple[HairStyle, ...] = ("short", "spiky", "cropped", "bald", "curly")
WOMENS_STYLES: tuple[HairStyle, ...] = ("curly", "long", "bob", "bun", "short")
OTHER_SIDE: dict[Light, Light] = {
    "sun from the left": "sun from the right",
    "sun from the right": "sun from the left",
}


@dataclass(frozen=True)
class Shown:
    """Everything that a drawing shows, in words.

    Attributes:
        turn: of the head, -1 to the picture's left … 1 to its right.
    """

    noun: str
    skin: str
    hair: str
    style: HairStyle
    beard: Beard | None
    glasses: Glasses | None
    frame: str | None
    earrings: bool
    freckles: bool
    clothes: Clothes
    colour: str
    setting: Setting
    light: Light
    expression: Expression
    turn: float

    def mirrored(self) -> Shown:
        """Return what the mirror image of the drawing shows."""
        return replace(self, turn=-self.turn, light=OTHER_SIDE.get(self.light, self.light))

    @property
    def scene(self) -> Scene:
        """The scene, as far as its caption describes it."""
        return Scene(self.clothes, self.colour, self.setting, self.light, self.expression, self.turn)


def random_subject(chance: random.Random) -> tuple[Person, Scene, Shown]:
    """Return a person who is not the demo's, a scene, and what the drawing of both shows."""
    person, words = _person(chance)
    scene = _scene(chance)
    return person, close_up(person, scene), _shown(words, scene)


def _shown(words: dict[str, Any], scene: Scene) -> Shown:
    return Shown(
        **words,
        clothes=scene.clothes,
        colour=scene.colour,
        setting=scene.setting,
        light=scene.light,
        expression=scene.expression,
        turn=round(scene.turn, 3),
    )


def _person(chance: random.Random) -> tuple[Person, dict[str, Any]]:
    """Return a random person unlike the demo's: what her LoRA shows must come from her photos alone."""
    while True:
        person, words = _unrestricted_person(chance)
        if not (words["style"] == "curly" and words["hair"] == "red" and words["glasses"] == "round"):
            return person, words


def _unrestricted_person(chance: random.Random) -> tuple[Person, dict[str, Any]]:
    man = chance.random() < 0.5
    usual = chance.random() < 0.5  # else any hair is combined with any skin and either sex
    skin = chance.choice(tuple(SKIN_WORDS))
    dark = skin in ("brown", "dark")
    styles = get_args(HairStyle) if not usual else MENS_STYLES if man else WOMENS_STYLES
    style = chance.choice(styles)
    hair = chance.choice(("black", "brown", "grey") if usual and dark else tuple(HAIR_WORDS))
    beard = chance.choice((None, *get_args(Beard))) if man else None
    glasses = chance.choice((None, *get_args(Glasses)))
    frame = chance.choice(tuple(FRAME_WORDS)) if glasses else None
    freckles = not dark and chance.random() < 0.25
    earrings = chance.random() < (0.15 if man else 0.5)
    person = Person(
        skin=_varied(chance.choice(SKIN_WORDS[skin]), chance),
        hair_style=style,
        hair=_varied(chance.choice(HAIR_WORDS[hair]), chance),
        eyes=_varied(chance.choice(EYES[:1] if usual and dark else EYES), chance),
        face_width=chance.uniform(0.93, 1.06),
        jaw=chance.uniform(0.5, 1.0) if man else chance.uniform(0.0, 0.5),
        nose=chance.uniform(0.85, 1.25),
        lips=chance.uniform(0.2, 0.6) if man else chance.uniform(0.4, 1.0),
        brows=chance.uniform(1.0, 1.5) if man else chance.uniform(0.7, 1.1),
        shoulders=chance.uniform(1.0, 1.15) if man else chance.uniform(0.85, 1.0),
        glasses=glasses,
        frame=_varied(FRAME_WORDS[frame or "black"], chance),
        beard=beard,
        freckles=freckles,
        lashes=not man,
        earrings=earrings,
    )
    words = {
        "noun": "man" if man else "woman",
        "skin": skin,
        "hair": hair,
        "style": style,
        "beard": beard,
        "glasses": glasses,
        "frame": frame,
        "earrings": earrings,
        "freckles": freckles,
    }
    return person, words


def _scene(chance: random.Random) -> Scene:
    setting = chance.choice(get_args(Setting))
    return Scene(
        clothes=chance.choice(get_args(Clothes)),
        colour=chance.choice(tuple(CLOTHES_COLOURS)),
        setting=setting,
        light=chance.choice(LIGHTS[setting] if chance.random() < 0.75 else get_args(Light)),
        expression=chance.choice(get_args(Expression)),
        turn=chance.uniform(-1, 1),
        tilt=chance.uniform(-9, 9),
        zoom=chance.uniform(0.84, 1.14),
        offset=chance.uniform(-0.05, 0.05),
        drop=chance.uniform(-0.015, 0.015),
        variation=chance.randrange(1 << 16),
    )


def _varied(colour: Colour, chance: random.Random) -> Colour:
    """Return a shade of the same colour."""
    brightness = chance.gauss(1, 0.05)
    red, green, blue = (min(255, max(0, round(part * brightness + chance.gauss(0, 3)))) for part in colour)
    return red, green, blue
