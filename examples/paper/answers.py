"""Writing answers: sampled, with seeds, kept as they come."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from examples.paper.models import fingerprint, longest
from examples.paper.recipe import PaperError, common

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from examples.paper.data import Sample


class Writer:
    """Writes answers to prompts.

    Each batch has a seed of its own, from the seed of the pass and its number, so that a pass that was interrupted goes
    on with the very answers that it would have had.

    Args:
        model: in evaluation mode while it writes, whatever it was before.
        tokenizer: of the model.
        no_repeat_ngram_size: as in transformers; None: the recipe's.
        answer_tokens: the most tokens of an answer; None: what the recipe leaves beside the longest prompt, or half of
            what the model can read, if that is less.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        no_repeat_ngram_size: int | None = None,
        answer_tokens: int | None = None,
    ) -> None:
        generation, texts = common().generation, common().texts
        room = longest([model], texts.max_length)
        answer_tokens = answer_tokens or min(texts.max_length - texts.max_prompt_length, room // 2)
        repeats = generation.no_repeat_ngram_size if no_repeat_ngram_size is None else no_repeat_ngram_size
        self.model = model
        self.tokenizer = tokenizer
        self.max_prompt_length = min(texts.max_prompt_length, room - answer_tokens)
        self.configuration = GenerationConfig(
            do_sample=True,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            no_repeat_ngram_size=repeats,
            max_new_tokens=answer_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    @torch.no_grad()
    def answers(self, prompts: Sequence[str], *, seed: int, batch_size: int, done: int = 0) -> Iterator[list[str]]:
        """Yield the answers to each batch of prompts.

        Args:
            prompts: all of them.
            seed: of the samples.
            batch_size: prompts at a time.
            done: how many batches there are already, which are left out.
        """
        was_training, cache = self.model.training, self.model.config.use_cache
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        for number in range(done, -(-len(prompts) // batch_size)):
            # Training that goes on meanwhile keeps its own random numbers.
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed * 1_000_003 + number)
                self.model.eval()
                self.model.config.use_cache = True
                try:
                    batch = self._answers(prompts[number * batch_size : (number + 1) * batch_size])
                finally:
                    self.model.train(was_training)
                    self.model.config.use_cache = cache
            yield batch

    def _answers(self, prompts: Sequence[str]) -> list[str]:
        ids = [self._tokens(prompt) for prompt in prompts]
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(self.model.device)
        written: Any = self.model.generate(  # type: ignore[operator]
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            generation_config=self.configuration,
        )
        texts = self.tokenizer.batch_decode(written[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def _tokens(self, prompt: str) -> list[int]:
        tokens: list[int] = self.tokenizer(prompt)["input_ids"]
        # Some tokenizers end each text; an answer is to go on from here.
        end = -1 if tokens[-1] == self.tokenizer.eos_token_id else None
        return tokens[:end][: self.max_prompt_length]


def write_file(writer: Writer, samples: Sequence[Sample], path: Path, *, seed: int, batch_size: int) -> Iterator[int]:
    """Write answers to a file, going on where it stops; yield how many it has after each batch.

    Args:
        writer: writes them.
        samples: what is asked.
        path: JSONL, a line of settings first, then an answer a line.
        seed: of the samples.
        batch_size: prompts at a time.

    Raises:
        PaperError: the file has been begun with other settings, or by a model with other weights.
    """
    prompts = [sample.prompt for sample in samples]
    generation = writer.configuration.to_diff_dict() | {"max_prompt_length": writer.max_prompt_length}
    settings = {
        "model": fingerprint(writer.model),
        "seed": seed,
        "batch_size": batch_size,
        "asked": len(prompts),
        "prompts": digest_of(prompts),
        "generation": {name: value for name, value in generation.items() if name != "transformers_version"},
    }
    lines = _whole_lines(path)
    if lines and json.loads(lines[0]) != settings:
        raise PaperError(
            f"{path} was begun with other settings, of which answers cannot be joined with these: it has {lines[0]}, "
            f"and here are {json.dumps(settings)}. Remove the file, or give the settings that it has."
        )
    lines = lines or [json.dumps(settings)]
    done = len(prompts) if len(lines) - 1 == len(prompts) else (len(lines) - 1) // batch_size * batch_size
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.with_suffix(".part")
    kept.write_text("".join(f"{line}\n" for line in lines[: done + 1]), encoding="utf-8")
    kept.replace(path)
    yield done
    with path.open("a", encoding="utf-8") as file:
        for batch in writer.answers(prompts, seed=seed, batch_size=batch_size, done=-(-done // batch_size)):
            file.writelines(f"{json.dumps({'answer': answer})}\n" for answer in batch)
            file.flush()
            done += len(batch)
            yield done


def read_answers(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the settings and the answers of a file that `write_file` has made, all that are there.

    Args:
        path: the file.

    Raises:
        PaperError: it is empty.
    """
    lines = _whole_lines(path)
    if not lines:
        raise PaperError(f"{path} is empty. Remove it, and write the answers by `generate`.")
    return json.loads(lines[0]), [json.loads(line)["answer"] for line in lines[1:]]


def digest_of(prompts: Sequence[str]) -> str:
    """Return what prompts are known by.

    Args:
        prompts: in their order.
    """
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:16]


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()
