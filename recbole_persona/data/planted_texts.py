"""Features, ratings and review sentences of planted personas, made of the taste that caused an interaction.

Every taste has features of its own. An item has some of its taste's; every user ranks all features, and what they write of an
item names the one of its features that they rank highest. The rating tells how much the user cares for the taste.
"""

import numpy as np

OF_A_TASTE, OF_AN_ITEM = 8, 3  # features

# in the order of planted.CLASSES; no word stands twice, in a title or in a sentence below
FEATURES = [
    words.split()
    for words in (
        "streetlamps detectives alleys fedoras betrayal rain smoke blackmail",
        "saloons duels horses prairie outlaws sheriffs cattle canyons",
        "jokes puns slapstick banter mishaps pranks timing irony",
        "rockets aliens orbits robots asteroids starships planets astronauts",
        "weddings vows kisses longing sunsets flirting courtship heartbreak",
        "ghosts screams curses cellars vampires dread nightmares zombies",
        "vaults disguises getaways safecrackers diamonds blueprints alarms forgeries",
        "archives interviews facts footage narration glaciers statistics testimony",
        "choruses tapdance ballads costumes duets orchestras choreography melodies",
        "trenches generals tanks medals sieges soldiers submarines bunkers",
        "dragons wizards prophecies elves swords castles spells quests",
        "goals coaches underdogs stadiums training rivals trophies marathons",
    )
]
SHARES = (0.25, 0.5)  # of a user's draws: below the first the rating is 3, from the second on 5
SENTENCES = {
    3: ("The {} will do.", "Decent {}, no more.", "I can live with the {}."),
    4: ("I like the {}.", "Good {} all the way.", "I am glad about the {}."),
    5: ("I love the {}.", "The {} made my day.", "Wonderful {}, I want more."),
}


def vocabulary(n_tastes: int) -> list[str]:
    """The features of all tastes, :data:`OF_A_TASTE` of each in turn; beyond the twelfth taste they have numbers."""
    rounds, names = len(FEATURES), []
    for taste in range(n_tastes):
        again = taste // rounds + 1
        names += [word if again == 1 else f"{word}-{again}" for word in FEATURES[taste % rounds]]
    return names


def item_features(item_tastes, seed: int) -> np.ndarray:
    """(n_items, OF_AN_ITEM) places in the vocabulary: different features of each item's taste, in their order."""
    rng = np.random.default_rng([seed, 3])
    drawn = rng.random((len(item_tastes), OF_A_TASTE)).argsort(axis=1)[:, :OF_AN_ITEM]
    return np.sort(drawn, axis=1) + item_tastes[:, None].astype(np.int64) * OF_A_TASTE


def reviews(interactions, first_user, user_tastes, features, seed: int, block: int):
    """What the users of a block write of their items.

    Args:
        interactions: (n,) of ``planted.INTERACTION``, of users from ``first_user`` on.
        user_tastes: (users, n_tastes) shares.
        features: (n_items, OF_AN_ITEM) of :func:`item_features`.
        block: the number of the block, which has a random stream of its own.

    Yields:
        ``(rating, sentence, feature)`` of every interaction.
    """
    rng = np.random.default_rng([seed, 4, block])
    n_users, n_tastes = user_tastes.shape
    words = vocabulary(n_tastes)
    rank = rng.random((n_users, len(words)))  # the lower, the dearer
    users = interactions["user"] - first_user
    offered = features[interactions["item"]]  # (n, OF_AN_ITEM)
    best = rank[users[:, None], offered].argmin(axis=1)
    named = offered[np.arange(len(offered)), best]
    ratings = 3 + np.searchsorted(SHARES, user_tastes[users, interactions["taste"]], side="right")
    forms = rng.integers(0, len(SENTENCES[3]), len(interactions))
    for rating, form, feature in zip(ratings.tolist(), forms.tolist(), named.tolist()):
        yield rating, SENTENCES[rating][form].format(words[feature]), words[feature]
