"""Memory of training a T5 of 60 million parameters with gradient checkpointing, beside a limit and beside training without.

The model has the sizes of t5-small and random weights. Each measurement is a process of its own: what resident memory rises
by, at its highest, from before the model is made to the end of two steps of Adam in single precision.
Run: ``python benchmarks/checkpointing_memory.py`` (``--input 64 --batch 4 --repeats 1`` for seconds)
"""

import argparse
import json
import subprocess
import sys
import tempfile

import torch
from timing import peak_memory, quotients, row, spread, write
from transformers import T5Config, T5ForConditionalGeneration

from recbole_persona.lm.backbone import Backbone, token_loss
from recbole_persona.lm.tokenizers import trained_tokenizer

LIMIT = 6e9  # bytes
STEPS = 2  # the second one finds the states of Adam there


def save(folder) -> int:
    """A T5 of t5-small's sizes in a folder; how many parameters it has."""
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0))
    model.save_pretrained(folder)
    trained_tokenizer(["a text"], 100).save_pretrained(folder)
    return model.num_parameters()


def train(folder, checkpointing, arguments):
    """Some steps on rows of random tokens."""
    config = {"backbone": folder, "adapt": "full", "dtype": None, "attn_implementation": None, "backbone_dropout": 0.1}
    config |= {"gradient_checkpointing": checkpointing, "trust_remote_code": False}
    backbone = Backbone(config).train()
    optimiser = torch.optim.Adam(backbone.parameters())
    for _ in range(STEPS):
        ids = torch.randint(3, 32_000, (arguments.batch, arguments.input))
        labels = torch.randint(3, 32_000, (arguments.batch, arguments.target))
        optimiser.zero_grad()
        token_loss(backbone.logits(backbone.embed(ids), torch.ones_like(ids), labels), labels).backward()
        optimiser.step()


def bytes_of(checkpointing, folder, arguments) -> int:
    command = [sys.executable, __file__, "--measure", folder, *(["--checkpointing"] if checkpointing else [])]
    for key in ("input", "target", "batch"):
        command += [f"--{key}", str(getattr(arguments, key))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=int, default=512, help="tokens of a row")
    parser.add_argument("--target", type=int, default=20, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        print(peak_memory(lambda: train(arguments.measure, arguments.checkpointing, arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"parameters": save(folder)}
        measured = [[bytes_of(kind, folder, arguments) for kind in (True, False)] for _ in range(arguments.repeats)]
    ours, plain = zip(*measured)
    sizes |= {"input": arguments.input, "target": arguments.target, "batch": arguments.batch}
    sizes |= {"GB": {"with": round(max(ours) / 1e9, 2), "without": round(max(plain) / 1e9, 2)}}
    write(
        __file__,
        [
            row("peak memory of training with checkpointing, below 1", "6 GB", spread([b / LIMIT for b in ours]),
                len(ours), sizes),
            row("peak memory of training with checkpointing", "training without", quotients(ours, plain), len(ours), sizes),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
