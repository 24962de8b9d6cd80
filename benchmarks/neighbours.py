"""The nearest users of all users: beside the dense matrix of cosines, and how the graph that many users need grows.

The dense side is one product of all users with all users and its largest values. Time is that of the process, memory the
peak of a process of its own above what it had before. The growth is the exponent of a power of the number of users, fitted
to the CPU seconds of an eighth, a quarter, a half and all of them; recall is the share of the exact 20 nearest that are found,
over a sample. Vectors are what PMF gives: of unit length, most of it in a few directions, users in groups of tastes.
Run: ``python benchmarks/neighbours.py`` (``--users=20000 --peer_users=4000 --repeats=1`` for a minute)
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import torch
from timing import in_turn, peak_memory, quotients, row, spread, write

from recbole_persona.layers.neighbours import nearest_users

NEIGHBOURS, DIMENSION, TASTES, SAMPLE = 20, 64, 2000, 1000


def users_like_pmf(n, seed=0):
    """(n + 1, 64) float32, row 0 the padding: each user mixes two of 2,000 tastes, and falling shares of each dimension."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, DIMENSION + 1) ** -0.5
    tastes = torch.randn(TASTES, DIMENSION, generator=torch.Generator().manual_seed(1))
    vectors = torch.empty(n + 1, DIMENSION)
    for rows in torch.arange(n + 1).split(65536):
        first, second = torch.randint(TASTES, (2, len(rows)), generator=generator)
        share = torch.rand(len(rows), 1, generator=generator)
        noise = torch.randn(len(rows), DIMENSION, generator=generator)
        vectors[rows] = (share * tastes[first] + (1 - share) * tastes[second] + 0.5 * noise) * spectrum
    vectors[0] = 0
    return torch.nn.functional.normalize(vectors, dim=1)


def dense(vectors):
    """(U, 20) by the whole U x U matrix."""
    cosine = vectors @ vectors.T
    cosine.fill_diagonal_(-2)
    cosine[:, 0] = -2
    return cosine.topk(NEIGHBOURS, dim=1).indices


def memory_of(side, n) -> int:
    """Bytes at the peak, in a process of its own."""
    command = [sys.executable, __file__, "--memory_of", side, "--peer_users", str(n)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(side, n):
    vectors = users_like_pmf(n)
    nearest_users(vectors[:100], NEIGHBOURS)  # what torch and faiss load at their first call
    print(peak_memory(lambda: dense(vectors) if side == "dense" else nearest_users(vectors, NEIGHBOURS)))


def against_dense(n, repeats):
    vectors, found = users_like_pmf(n), {}

    def ours():
        found["ours"] = nearest_users(vectors, NEIGHBOURS)

    def whole():
        found["dense"] = dense(vectors)

    seconds = in_turn({"dense": whole, "ours": ours}, repeats)
    cosines = [
        torch.einsum("ud,und->un", vectors[1:], vectors[found[side][1:]]).sort(dim=1).values
        for side in ("ours", "dense")
    ]
    error = (cosines[0] - cosines[1]).abs().max().item()
    if not error < 1e-5:
        raise SystemExit(f"The cosines of the neighbours differ by {error:.1e}.")
    equal = (found["ours"][1:].sort(dim=1).values == found["dense"][1:].sort(dim=1).values).float().mean().item()
    sizes = {"users": n, "dimension": DIMENSION, "neighbours": NEIGHBOURS, "share of equal neighbours": equal}
    sizes |= {"largest difference of a cosine": error}
    sizes |= {"CPU seconds": {side: float(np.median(values)) for side, values in seconds.items()}}
    measured = [(memory_of("dense", n), memory_of("ours", n)) for _ in range(min(repeats, 3))]
    mib = {"MiB": {side: round(values[0] / 2**20) for side, values in zip(("dense", "ours"), zip(*measured))}}
    peer = "the dense matrix of all users"
    return [
        row("CPU seconds of the dense matrix over ours, neighbours equal", peer, quotients(seconds["dense"], seconds["ours"]),
            repeats, sizes),
        row("peak memory of the dense matrix over ours", peer, spread([a / b for a, b in measured]), len(measured), sizes | mib),
    ]  # fmt: skip


def of_many(n) -> dict:
    """Seconds, bytes and recall of the graph over ``n`` users, in this process."""
    vectors, found = users_like_pmf(n), {}
    nearest_users(vectors[:100], NEIGHBOURS)

    def search():
        start, clock = time.process_time(), time.perf_counter()
        found["near"] = nearest_users(vectors, NEIGHBOURS, exact=0)
        found["seconds"], found["clock"] = time.process_time() - start, time.perf_counter() - clock

    memory = peak_memory(search)
    sample = 1 + torch.randperm(n, generator=torch.Generator().manual_seed(2))[:SAMPLE]
    hits = 0
    for users in sample.split(64):
        cosine = vectors[users] @ vectors.T
        cosine[torch.arange(len(users)), users] = -2
        cosine[:, 0] = -2
        exact = cosine.topk(NEIGHBOURS, dim=1).indices
        hits += (found["near"][users].unsqueeze(2) == exact.unsqueeze(1)).any(dim=2).sum().item()
    recall = hits / (len(sample) * NEIGHBOURS)
    return {"seconds": found["seconds"], "clock": found["clock"], "memory": memory, "recall": recall}


def graph_rows(n):
    sizes = [n // 8, n // 4, n // 2, n]
    found = []
    for size in sizes:
        command = [sys.executable, __file__, "--of_many", str(size)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(os.cpu_count())
        }  # as a user runs it; CPU seconds are counted
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    growth = float(np.polyfit(np.log(sizes), np.log([one["seconds"] for one in found]), 1)[0])
    used = {
        "users": sizes,
        "dimension": DIMENSION,
        "neighbours": NEIGHBOURS,
        "generator": "two of 2,000 tastes, and noise",
    }
    used |= {key: [round(one[key], 4) for one in found] for key in ("seconds", "clock", "recall")}
    used |= {"MiB": [round(one["memory"] / 2**20) for one in found]}
    gib = found[-1]["memory"] / 2**30
    return [
        row(f"growth of CPU seconds up to {n:,} users", "1 is linear", spread([growth]), 1, used),
        row(f"recall@20 at {n:,} users, at least 0.95", "all pairs, a sample", spread([found[-1]["recall"]]), 1, used),
        row(f"GiB at the peak at {n:,} users, the vectors not counted, under 4", "a bound", spread([gib]), 1, used),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000, help="of the graph")
    parser.add_argument("--peer_users", type=int, default=30_000, help="beside the dense matrix")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    parser.add_argument("--of_many", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of_many:
        print(json.dumps(of_many(arguments.of_many)))
        return
    torch.set_num_threads(1)
    if arguments.memory_of:
        print_memory(arguments.memory_of, arguments.peer_users)
        return
    write(__file__, against_dense(arguments.peer_users, arguments.repeats) + graph_rows(arguments.users))


if __name__ == "__main__":
    main()
