"""The tokenizer of Qwen3 for tiny bases, and its configuration: as small as it can be."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config

from worker.ml.families.tiny.parts import WORDS

TEXT_LENGTH = 56  # tokens that it reads, the template's among them
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def qwen3_config(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3Config:
    """Return the configuration of a Qwen3 that is 32 wide."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
    )


def qwen3_tokenizer(whole: Sequence[str] = ()) -> Qwen2Tokenizer:
    """Return a byte-level BPE tokenizer that knows WORDS, the template's and these whole, and spells out the rest."""
    pieces = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    words = sorted([*WORDS.split(), "user", "assistant"], key=len, reverse=True)  # earlier merges come first
    for word in words:
        left, *others = [*word]
        for right in others:
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            pieces.append(left)
    merges += [("Ġ", word) for word in words]
    pieces += [f"Ġ{word}" for word in words]
    vocabulary = dict.fromkeys([*pieces, *SPECIAL, *whole])
    return Qwen2Tokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)},
        merges=merges,
        model_max_length=TEXT_LENGTH,
        chat_template=TEMPLATE,
        additional_special_tokens=[*SPECIAL[1:], *whole],
    )
