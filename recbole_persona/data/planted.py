"""Planted personas: generated interactions of which the right answer is known.

Every item belongs to one taste, and inside a taste few items are popular (Zipf). Every user has one to four tastes with
known shares and draws each interaction on its own: first a taste by the user's shares, then an item of that taste by
popularity, again if the user has had that item. A model with fewer dimensions than there are tastes cannot place one
vector near all tastes of a user; several personas can.

    python -m recbole_persona.data.planted --out=dataset --seed=2020

``chunks`` gives 10^7 interactions block by block of users, in memory that does not grow with their number, and equal to
what ``generate`` gives at once.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_persona.data.planted_texts import OF_A_TASTE, item_features, reviews, vocabulary
from recbole_persona.errors import UserError
from recbole_persona.upstream.files import atomic_path

#: One interaction: dense numbers from 0, and ``position`` from 0 in the order in which the user drew them.
INTERACTION = np.dtype([("user", "i4"), ("item", "i4"), ("taste", "i2"), ("position", "i4")])

NUMBER_OF_TASTES = (0.1, 0.5, 0.3, 0.1)  # share of the users with one, two, three and four tastes
EVENNESS = 10.0  # concentration of the Dirichlet distribution of a user's shares
ZIPF = 1.0  # popularity of the r-th item of a taste is r ** -ZIPF
CLASS_NOISE = 0.2  # share of the items whose class is drawn at random: a genre is a hint, not the truth
BLOCK = 4096  # users drawn at a time; part of the recipe, as each block has a random stream of its own
FULLEST = 0.75  # of a taste's items that one user may take; beyond, drawing until an item is new takes too long

CLASSES = "Noir Western Comedy Space Romance Horror Heist Documentary Musical War Fantasy Sport".split()
ADJECTIVES = (
    "Amber Silent Crooked Golden Hollow Crimson Distant Paper Velvet Broken Winter Restless Hidden Copper Electric "
    "Gentle Midnight Wandering Burning Forgotten"
).split()
NOUNS = (
    "Lantern River Orchard Compass Harbour Mirror Falcon Garden Letter Station Bridge Violin Island Clock Tiger Window "
    "Engine Meadow Shadow Kingdom"
).split()
FIRST_NAMES = (
    "Ada Boris Chloe Dario Elif Femi Greta Hugo Ines Jonas Kira Liam Mona Nils Olga Paul Quinn Rosa Sami Tara Uma "
    "Viktor Wanda Ximena Yusuf Zoe"
).split()


@dataclass(frozen=True)
class Planted:
    """Interactions with their truth.

    Attributes:
        interactions: (n,) of :data:`INTERACTION`, ordered by user, then by position.
        user_tastes: (users, n_tastes) each user's share of each taste; a row sums to one.
        item_tastes: (n_items,) the taste of each item.
        first_user: the number of the user in row 0 of ``user_tastes``.
    """

    interactions: np.ndarray
    user_tastes: np.ndarray
    item_tastes: np.ndarray
    first_user: int = 0


def generate(n_interactions, n_users, n_items, n_tastes, seed, tastes_of_a_user=NUMBER_OF_TASTES) -> Planted:
    """Draw a whole data set; the same arguments give the same arrays.

    Every user has at least four fifths of the mean number of interactions.

    Args:
        tastes_of_a_user: shares of the users with one taste, two tastes, and so on.

    Raises:
        UserError: the numbers cannot be met (see :func:`chunks`).
    """
    blocks = list(chunks(n_interactions, n_users, n_items, n_tastes, seed, tastes_of_a_user))
    return Planted(
        np.concatenate([block.interactions for block in blocks]),
        np.concatenate([block.user_tastes for block in blocks]),
        blocks[0].item_tastes,
    )


def chunks(n_interactions, n_users, n_items, n_tastes, seed, tastes_of_a_user=NUMBER_OF_TASTES) -> Iterator[Planted]:
    """As :func:`generate`, one block of :data:`BLOCK` users after the other.

    Raises:
        UserError: fewer tastes than a user may have, or so few items in a taste that a user with this taste alone would
            run out.
    """
    if n_tastes < len(tastes_of_a_user) or n_users < 1 or n_interactions < n_users:
        raise UserError(
            f"Planted personas need at least {len(tastes_of_a_user)} tastes, one user, and one interaction for each user."
        )
    rng = np.random.default_rng([seed, 0])
    least = int(0.8 * n_interactions / n_users)
    counts = least + rng.multinomial(n_interactions - least * n_users, np.full(n_users, 1 / n_users))
    if counts.max() > FULLEST * (n_items // n_tastes):
        needed = math.ceil(counts.max() / FULLEST) * n_tastes
        raise UserError(
            f"A user with one taste would take {counts.max()} of its {n_items // n_tastes} items; give at least "
            f"{needed} items, or fewer interactions for each user."
        )
    by_taste = rng.permutation(n_items)  # item numbers do not tell the taste
    sizes = np.full(n_tastes, n_items // n_tastes)
    sizes[: n_items % n_tastes] += 1
    item_tastes = np.empty(n_items, dtype=np.int16)
    item_tastes[by_taste] = np.repeat(np.arange(n_tastes), sizes)
    # edges[j] - taste is the cumulative popularity inside the taste of by_taste[j]: one search serves all tastes.
    edges = np.concatenate([taste + _cumulative(size) for taste, size in enumerate(sizes)])
    for block, first in enumerate(range(0, n_users, BLOCK)):
        rng = np.random.default_rng([seed, 1, block])
        user_tastes = _user_tastes(len(counts[first : first + BLOCK]), n_tastes, tastes_of_a_user, rng)
        drawn = _draw(counts[first : first + BLOCK], user_tastes, by_taste, edges, item_tastes, rng)
        drawn["user"] += first
        yield Planted(drawn, user_tastes, item_tastes, first)


def _cumulative(size):
    popularity = np.arange(1, size + 1) ** -ZIPF
    return np.cumsum(popularity) / np.cumsum(popularity)[-1]  # ends in 1.0 exactly


def _user_tastes(n_users, n_tastes, of_a_user, rng):
    """(n_users, n_tastes) shares: one to four (:data:`NUMBER_OF_TASTES`) random tastes with Dirichlet weights."""
    most = len(of_a_user)
    how_many = 1 + rng.choice(most, n_users, p=of_a_user)
    weights = rng.standard_gamma(EVENNESS, (n_users, most)) * (np.arange(most) < how_many[:, None])
    shares = np.zeros((n_users, n_tastes))
    chosen = rng.random((n_users, n_tastes)).argsort(axis=1)[:, :most]
    np.put_along_axis(shares, chosen, weights / weights.sum(axis=1, keepdims=True), axis=1)
    return shares


def _draw(counts, user_tastes, by_taste, edges, item_tastes, rng):
    """The first ``counts[u]`` different items that each user draws, as :data:`INTERACTION`."""
    steps = user_tastes.cumsum(axis=1)[:, :-1]  # (users, n_tastes - 1)
    users, items = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    missing = counts
    while missing.any():
        more = np.repeat(np.arange(len(counts)), missing + missing // 2 + 1 * (missing > 0))
        tastes = (rng.random(len(more))[:, None] > steps[more]).sum(axis=1)
        places = np.searchsorted(edges, tastes + rng.random(len(more)), side="right")
        users = np.concatenate([users, more])
        items = np.concatenate([items, by_taste[np.minimum(places, len(by_taste) - 1)]])
        _, first = np.unique(users * len(by_taste) + items, return_index=True)
        first.sort()
        first = first[np.argsort(users[first], kind="stable")]
        users, items = users[first], items[first]
        starts = np.searchsorted(users, np.arange(len(counts)))
        missing = np.maximum(counts - np.bincount(users, minlength=len(counts)), 0)
    positions = np.arange(len(users)) - starts[users]
    wanted = positions < counts[users]
    drawn = np.empty(int(counts.sum()), dtype=INTERACTION)
    drawn["user"], drawn["item"], drawn["position"] = users[wanted], items[wanted], positions[wanted]
    drawn["taste"] = item_tastes[drawn["item"]]
    return drawn


def write(folder, name, n_interactions, n_users, n_items, n_tastes, seed, tastes_of_a_user=NUMBER_OF_TASTES) -> None:
    """Write ``folder/name/name.inter``, ``.item`` and ``.user`` and, apart from them, ``truth_*.tsv``.

    What a model may see and the truth are in different files: no setting of RecBole loads the truth. Block by block, so
    that memory does not grow with the number of interactions; each file appears only when it is whole. The features of
    items, the ratings and the sentences are those of :mod:`recbole_persona.data.planted_texts`.

    Raises:
        UserError: as :func:`chunks`.
    """
    folder = Path(folder) / name
    names = [f"{name}.inter", f"{name}.item", f"{name}.user"]
    names += ["truth_interactions.tsv", "truth_items.tsv", "truth_users.tsv", "truth_features.tsv"]
    blocks = chunks(n_interactions, n_users, n_items, n_tastes, seed, tastes_of_a_user)
    block = next(blocks)  # impossible numbers are refused before a file is made
    with ExitStack() as stack:
        paths = [stack.enter_context(atomic_path(folder / file)) for file in names]
        inter, item, user, truth, truth_items, truth_users, truth_features = (
            stack.enter_context(open(path, "w", encoding="utf-8", newline="\n")) for path in paths
        )
        item.write("item_id:token\ttitle:token\tclass:token_seq\tfeatures:token_seq\n")
        truth_items.write("item_id\ttaste\n")
        words, features = vocabulary(n_tastes), item_features(block.item_tastes, seed)
        for number, (taste, genre) in enumerate(zip(block.item_tastes, _classes(block.item_tastes, n_tastes, seed))):
            item.write(f"i{number + 1}\t{_title(number)}\t{genre}\t{' '.join(words[f] for f in features[number])}\n")
            truth_items.write(f"i{number + 1}\t{taste}\n")
        truth_features.write("feature\ttaste\n")
        truth_features.writelines(f"{word}\t{place // OF_A_TASTE}\n" for place, word in enumerate(words))
        inter.write("user_id:token\titem_id:token\ttimestamp:float\trating:float\texplanation:text\tfeature:token\n")
        user.write("user_id:token\tname:token\n")
        truth.write("user_id\titem_id\ttaste\n")
        truth_users.write("user_id\ttaste\tshare\n")
        while block is not None:
            written = reviews(
                block.interactions, block.first_user, block.user_tastes, features, seed, block.first_user // BLOCK
            )
            for (u, i, taste, position), (rating, sentence, feature) in zip(block.interactions.tolist(), written):
                inter.write(f"u{u + 1}\ti{i + 1}\t{position + 1}\t{rating}\t{sentence}\t{feature}\n")
                truth.write(f"u{u + 1}\ti{i + 1}\t{taste}\n")
            for number, shares in enumerate(block.user_tastes, block.first_user):
                user.write(f"u{number + 1}\t{_person(number)}\n")
                for taste in np.flatnonzero(shares):
                    truth_users.write(f"u{number + 1}\t{taste}\t{shares[taste]:.4f}\n")
            block = next(blocks, None)


def _classes(item_tastes, n_tastes, seed):
    """A genre-like class for each item: mostly the one of its taste."""
    names = [CLASSES[taste] if taste < len(CLASSES) else f"Class-{taste + 1}" for taste in range(n_tastes)]
    rng = np.random.default_rng([seed, 2])
    noisy = rng.random(len(item_tastes)) < CLASS_NOISE
    shown = np.where(noisy, rng.integers(0, n_tastes, len(item_tastes)), item_tastes)
    return [names[taste] for taste in shown]


def _title(number):
    round_, rest = divmod(number, len(ADJECTIVES) * len(NOUNS))
    adjective, noun = divmod(rest, len(NOUNS))
    return f"{ADJECTIVES[adjective]} {NOUNS[noun]}" + (f" {round_ + 1}" if round_ else "")


def _person(number):
    round_, rest = divmod(number, 26 * 26)
    initial, first = divmod(rest, 26)
    return f"{FIRST_NAMES[first]} {chr(ord('A') + initial)}." + (f" {round_ + 1}" if round_ else "")


def main(arguments=None) -> int:
    """Write a data set of planted personas, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m recbole_persona.data.planted", description=main.__doc__)
    parser.add_argument("--out", required=True, help="folder of data sets; the files go to OUT/NAME")
    parser.add_argument("--name", default="planted-personas", help="name of the data set (default: %(default)s)")
    parser.add_argument("--interactions", type=int, default=44_000, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=800, help="default: %(default)s")
    parser.add_argument("--items", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--tastes", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2020, help="default: %(default)s")
    given = parser.parse_args(arguments)
    try:
        write(given.out, given.name, given.interactions, given.users, given.items, given.tastes, given.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
