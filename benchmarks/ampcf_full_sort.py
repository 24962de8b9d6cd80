"""Scoring all users against all items by AMPCF, beside the bare matrix product that it contains.

The product of the users' K personas with the items, stored whole, has K x users x items numbers; scoring goes through
tiles of it that stay in the cache, a batch of users at a time. Run: ``python benchmarks/ampcf_full_sort.py``
"""

import argparse
import subprocess
import sys

import torch
from timing import in_turn, peak_memory, quotients, row, spread, write

from recbole_persona.config import Config
from recbole_persona.models.ampcf import AMPCF

PERSONAS, DIMENSION, BATCH = 4, 64, 256


class Sizes:
    """What AMPCF reads of a data set."""

    def __init__(self, n_users, n_items):
        self.numbers = {"user_id": n_users, "item_id": n_items}
        self.inter_feat = {"user_id": torch.arange(1, n_users), "item_id": torch.ones(n_users - 1, dtype=torch.int64)}

    def num(self, field):
        return self.numbers[field]


def model_of(n_users, n_items, variant="journal"):
    settings = {"n_personas": PERSONAS, "embedding_size": DIMENSION, "variant": variant, "use_gpu": False}
    torch.manual_seed(0)
    return AMPCF(Config(model="AMPCF", dataset="ml-100k", config_dict=settings), Sizes(n_users, n_items)).eval()


def score_all_users(model, n_users):
    """As evaluation does: a batch of users at a time."""
    for users in torch.arange(n_users).split(BATCH):
        model.full_sort_predict({"user_id": users})


@torch.no_grad()
def time_against_product(n_users, n_items, repeats):
    """Ratios of seconds, as rows."""
    journal, conference = model_of(n_users, n_items), model_of(n_users, n_items, "conference")
    personas = journal.persona_embedding.weight.view(-1, DIMENSION)  # (users * K, d)
    items = journal.item_embedding.weight  # (items, d)
    kept = torch.empty(len(personas), n_items)
    ours = {
        "journal": lambda: score_all_users(journal, n_users),
        "conference": lambda: score_all_users(conference, n_users),
    }
    # Each peer for itself: the memory that one gives back would have to be handed out to ours again, page by page.
    peers = {
        "product, memory kept": lambda: torch.mm(personas, items.T, out=kept),
        "product": lambda: personas @ items.T,
    }
    seconds = {name: in_turn({name: peer, **ours}, repeats) for name, peer in peers.items()}
    sizes = {"users": n_users, "items": n_items, "personas": PERSONAS, "dimension": DIMENSION}
    claim = "seconds of scoring all users against all items over those of the product, written to memory held since before, "
    claim += "at most 1.5"
    pages = "the same, beside a product that also pays for new pages of memory (no aim)"
    twice = "the same for the variant conference, which contains two products (no aim)"
    compared = [
        (claim, "journal", "product, memory kept"),
        (twice, "conference", "product, memory kept"),
        (pages, "journal", "product"),
    ]
    return [
        row(
            text,
            f"torch matrix product, {peer}",
            quotients(seconds[peer][variant], seconds[peer][peer]),
            repeats,
            sizes,
        )
        for text, variant, peer in compared
    ]


def memory_of(n_users, n_items):
    """Bytes that scoring all users takes at its peak, a batch of users at a time, in a process of its own."""
    command = [sys.executable, __file__, "--memory_of", str(n_users), "--items", str(n_items)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@torch.no_grad()
def print_memory(n_users, n_items):
    model = model_of(n_users, n_items)
    score_all_users(model, 2)  # what torch loads at its first call
    print(peak_memory(lambda: score_all_users(model, n_users)))


def memory_rows(n_users, n_items, repeats):
    few, many = n_users // 4, n_users * 4
    measured = [(memory_of(many, n_items), memory_of(few, n_items)) for _ in range(repeats)]
    sizes = {"items": n_items, "personas": PERSONAS, "dimension": DIMENSION, "batch": BATCH}
    whole = 4 * PERSONAS * many * n_items
    ratio = spread([a / b for a, b in measured])
    share = spread([a / whole for a, _ in measured])
    users = {"users": many, "users of the peer": few}
    return [
        row(
            "peak memory of scoring 16 times the users, about 1",
            "the same model, fewer users",
            ratio,
            repeats,
            sizes | users,
        ),
        row(
            "peak memory over that of the K x users x items responses",
            "their size",
            share,
            repeats,
            sizes | {"users": many},
        ),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=10000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print_memory(arguments.memory_of, arguments.items)
        return
    rows = time_against_product(arguments.users, arguments.items, arguments.repeats)
    write(__file__, rows + memory_rows(arguments.users, arguments.items, 5))


if __name__ == "__main__":
    main()
