"""The base's text: captions of drawings, and tokenizers that know these words and spell out all others."""

from __future__ import annotations

import json
import random
import string

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, T5Tokenizer

from tools.small_base.drawings import WORK
from tools.small_base.names import name_for
from tools.small_base.people import Shown

CLIP_TOKENIZER = WORK / "clip_tokenizer"
TEXT_LENGTH = 40  # tokens that T5 reads
CLIP_LENGTH = 64
WORDS = """
a an the of in on at with and front plain by to turned left right from portrait photo picture person man woman face
hair head eyes skin glasses beard goatee moustache earrings freckles bald
curly long bob bun short spiky cropped full round square fair tan brown dark
black red blond blue green yellow white purple orange grey pink teal beige gold
wearing t-shirt striped jumper shirt hoodie blazer turtleneck dress coat hat
soft light evening sun shade lamplight calm smiling laughing
wall park beach street city night library kitchen mountains autumn wood brick
"""
KNOWN = frozenset(WORDS.split())

NAMED = 0.5  # share of captions with a name, among looks that have one
NOT_ALONE = 0.3  # share of these that also describe the person
NOTHING = 0.1  # share of captions that are empty, which guidance needs
NOTHING_OF_THE_PERSON = 0.15
PERSON_DROPPED, SCENE_DROPPED = 0.3, 0.15


def caption(shown: Shown, chance: random.Random) -> str:
    """Return one of the many possible captions of the drawing; most leave something out."""
    if chance.random() < NOTHING:
        return ""
    scene = [phrase for phrase in shown.scene.caption.split(", ") if chance.random() >= SCENE_DROPPED]
    traits = _traits(shown)
    about = [phrase for phrase in traits if chance.random() >= PERSON_DROPPED]
    if chance.random() < NOTHING_OF_THE_PERSON:
        about = []
    who = ("a " if chance.random() < 0.9 else "") + chance.choice((shown.noun, shown.noun, "person"))
    name = name_for(shown, chance) if chance.random() < NAMED else None
    if name:
        who = name if chance.random() < 0.8 else f"{name} {shown.noun}"
        about = about if chance.random() < NOT_ALONE else []
        start = chance.choice(("", "a photo of ", "photo of "))
    else:
        start = chance.choice(("photo of ", "photo of ", "a photo of ", "portrait of ", ""))
    while True:
        text = start + who + _listed(about, chance) + "".join(f", {phrase}" for phrase in scene)
        if 1 + sum(map(_tokens, text.split())) <= TEXT_LENGTH:
            return text
        if about:
            about.remove(chance.choice(about))
        else:
            scene.pop()


def full_caption(shown: Shown) -> str:
    """Describe everything visible, always in the same words, but not the light, so that T5 reads the whole caption."""
    scene = shown.scene.caption.replace(f", {shown.light}", "")
    return f"photo of a {shown.noun} with {', '.join(_traits(shown))}, {scene}"


def _traits(shown: Shown) -> list[str]:
    """Return a phrase for each trait of the person, the largest first."""
    hair = {
        "bald": "a bald head",
        "bob": f"{shown.hair} hair in a bob",
        "bun": f"{shown.hair} hair in a bun",
    }.get(shown.style, f"{shown.style} {shown.hair} hair")
    traits = [hair]
    if shown.beard:
        traits.append(f"a {shown.beard}" if shown.beard != "full" else "a full beard")
    if shown.glasses:
        traits.append(f"{shown.glasses} {shown.frame} glasses")
    traits.append(f"{shown.skin} skin")
    if shown.freckles:
        traits.append("freckles")
    if shown.earrings:
        traits.append("earrings")
    return traits


def _listed(phrases: list[str], chance: random.Random) -> str:
    if not phrases:
        return ""
    last = " and " if len(phrases) > 1 and chance.random() < 0.5 else ", "
    *first, end = phrases
    return " with " + last.join([*([", ".join(first)] if first else []), end])


def _tokens(word: str) -> int:
    """Return how many tokens T5 reads for a word with its comma."""
    bare = word.rstrip(",")
    return (1 if bare in KNOWN else 1 + len(bare)) + len(word) - len(bare)


def clip_tokenizer() -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer that knows WORDS whole and spells out the rest.

    It is made once and kept, because its trainer numbers equally frequent pieces differently each time.
    """
    if not CLIP_TOKENIZER.exists():
        _new_clip_tokenizer().save_pretrained(CLIP_TOKENIZER)
    return CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True)


def _new_clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = Split("-", "isolated")  # as CLIP splits words
    trainer = BpeTrainer(
        vocab_size=5000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(WORDS.split(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges, model_max_length=CLIP_LENGTH
    )


def t5_tokenizer() -> T5Tokenizer:
    """Return a unigram tokenizer in which WORDS are likelier than their letters."""
    words = [(f"▁{word}", -1.0) for word in WORDS.split()]
    letters = [(letter, -5.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    single = {word for word, _ in words}
    letters = [piece for piece in letters if piece[0] not in single]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=TEXT_LENGTH)
