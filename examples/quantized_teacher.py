"""A teacher in 4 or 8 bits, beside the same teacher as it was trained.

    pip install bitsandbytes
    python -m examples.quantized_teacher --bits 4

Nothing else is different: the head and the input embedding, which the loss reads, are left as they are by transformers.
"""

from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from examples.command_line import command_line
from examples.plain_loop import train
from examples.tiny import tiny_pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantized(model: PreTrainedModel, bits: int) -> PreTrainedModel:
    """Return a model as it is loaded in few bits.

    Args:
        model: the model in full precision.
        bits: 4 or 8.
    """
    options = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=options, device_map={"": model.device}
        )
    found.eval().requires_grad_(requires_grad=False)
    return found


def main(bits: int = 4) -> list[tuple[float, float]]:
    """Train a student twice, and return the losses of each step, with the whole teacher's first.

    Args:
        bits: 4 or 8.
    """
    whole = train(tiny_pair())
    pair = tiny_pair()
    return list(zip(whole, train(replace(pair, teacher=quantized(pair.teacher, bits))), strict=True))


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="of a weight")
    options = parser.parse_args()
    print("step  teacher as trained  in few bits")
    for step, (as_trained, in_few_bits) in enumerate(main(options.bits), start=1):
        print(f"{step:4d}  {as_trained:18.6f}  {in_few_bits:11.6f}")
