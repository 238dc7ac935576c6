"""Ways in which a tokenizer changes after it was used, each in place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

    Change = Callable[[PreTrainedTokenizerFast], Any]


def ordinary_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Tokens of the model's own vocabulary, long ones first."""
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    words = [token for token in vocabulary if token.isascii() and token.isalpha() and token not in added]
    return sorted(words, key=lambda token: (-len(token), token))


def add_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["statement"])


def add_special_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})


def add_bare_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.add_tokens([AddedToken("<|tool|>", lstrip=True)])


def add_many_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([f"<|reserved_{number}|>" for number in range(100)] + ["ement"])


def make_word_special(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.add_special_tokens([ordinary_words(tokenizer)[0]])


def name_word_special(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [ordinary_words(tokenizer)[1]]})


def make_end_of_turn_special(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])


def set_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = ordinary_words(tokenizer)[0]


def set_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = ordinary_words(tokenizer)[0]


def set_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = ordinary_words(tokenizer)[0]


def set_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}: {{ m.content }} ]{{ eos_token }}{% endfor %}"


def swap_all_words(tokenizer: PreTrainedTokenizerFast) -> None:
    swap_tokens(tokenizer, ordinary_words(tokenizer))


def swap_two_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    added = tokenizer.get_added_vocab()
    found = dict.fromkeys(token for token in tokenizer.tokenize("the statement is 12") if token not in added)
    swap_tokens(tokenizer, list(found)[-2:])


def swap_words_outside(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Swap two tokens that a text cannot have."""
    swap_tokens(tokenizer, [token for token in ordinary_words(tokenizer) if token.lower() not in text.lower()][:2])


def swap_tokens(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> None:
    """Give each token the id of the next one, so that the vocabulary is of the same size."""
    assert len(words) > 1
    backend = tokenizer.backend_tokenizer
    description = json.loads(backend.to_str())
    others = dict(zip(words, [*words[1:], words[0]], strict=True))
    vocabulary = description["model"]["vocab"]
    if isinstance(vocabulary, dict):
        swapped = {others.get(token, token): number for token, number in vocabulary.items()}
    else:
        swapped = [[others.get(token, token), score] for token, score in vocabulary]
    description["model"]["vocab"] = swapped
    backend.model = Tokenizer.from_str(json.dumps(description)).model


def replace_backend(tokenizer: PreTrainedTokenizerFast) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["normalizer"] = json.loads(normalizers.Lowercase().__getstate__())
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(description))


def set_normalizer(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer.backend_tokenizer.normalizer
    steps = [normalizers.Lowercase()] + ([] if before is None else [before])
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def set_pre_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer.backend_tokenizer.pre_tokenizer
    steps = [pre_tokenizers.Digits(individual_digits=True)] + ([] if before is None else [before])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def write_bytes_in_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def add_prefix_space_in_place(tokenizer: PreTrainedTokenizerFast) -> None:
    step = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(step, pre_tokenizers.ByteLevel):
        step.add_prefix_space = True
    elif isinstance(step, pre_tokenizers.Metaspace):
        step.prepend_scheme = "never"


def set_post_processor(tokenizer: PreTrainedTokenizerFast) -> None:
    word = ordinary_words(tokenizer)[0]
    number = tokenizer.convert_tokens_to_ids(word)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{word} $A {word} {word}", special_tokens=[(word, number)]
    )


def trim_offsets(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)


def set_decoder(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()


def set_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tokenizer.backend_tokenizer.model
    if hasattr(model, "unk_token"):
        model.unk_token = ordinary_words(tokenizer)[0]


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        add_token,
        add_special_token,
        add_bare_token,
        add_many_tokens,
        make_word_special,
        name_word_special,
        make_end_of_turn_special,
        set_eos,
        set_pad,
        set_bos,
        set_chat_template,
        swap_all_words,
        swap_two_tokens,
        replace_backend,
        set_normalizer,
        set_pre_tokenizer,
        write_bytes_in_letters,
        add_prefix_space_in_place,
        set_post_processor,
        trim_offsets,
        set_decoder,
        set_unknown,
    )
}
