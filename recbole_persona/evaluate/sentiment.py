"""Whether a text is as pleased as the rating: a small English lexicon, no more.

It sees words, not sense: no irony, no comparison, no *I wanted to like it*. A text that the lexicon cannot tell is left out.
"""

import numpy as np

POSITIVE = frozenset(
    "accurate adorable affordable amazing awesome beautiful beautifully best bright brilliant charming clean clear comfortable "
    "compelling convenient crisp decent delicious delight delightful durable easily easy effective elegant enjoy enjoyable "
    "enjoyed enjoying enjoys excellent exceptional exciting fabulous fantastic fast favorite favourite fine flawless fresh "
    "friendly fun funny gem generous glad good gorgeous great happy helpful highly impressed impressive incredible love loved "
    "lovely loves loving magnificent marvelous memorable nice nicely outstanding perfect perfectly pleasant pleased pleasure "
    "powerful precise quick quiet recommend recommended refreshing reliable satisfied sharp smooth solid stunning sturdy "
    "stylish superb superior surprised tasty terrific thrilled top touching versatile warm well wonderful worth".split()
)
NEGATIVE = frozenset(
    "annoying annoyed avoid awful awkward bad badly bland boring broke broken buggy cheap cheaply complain complaint confusing "
    "cracked crap crappy damaged dead defective difficult dirty disappointed disappointing disappointment disgusting dreadful "
    "dull expensive fail failed fails failure fake faulty fell flawed flimsy forgettable frustrating garbage hate hated horrible "
    "inaccurate inferior irritating junk lacking lacks lame leak leaked leaks loud mediocre mess messy misleading missing noisy "
    "overpriced pain painful pathetic poor poorly predictable problem problems regret return returned ridiculous rude ruined "
    "shoddy sloppy slow smelly sore stale stiff stuck stupid terrible thin tired ugly unacceptable uncomfortable unhappy "
    "unpleasant unreliable useless waste wasted weak weird worse worst wrong".split()
)
NOT = frozenset(
    "not no never nothing hardly barely without don doesn didn isn wasn aren weren won wouldn couldn cannot".split()
)
REACH = 3  # words behind a negation that it turns round


def polarity(tokens) -> int:
    """1 for a pleased text, -1 for a displeased one, 0 where the lexicon cannot tell. ``tokens``: words in lower case."""
    total, negated = 0, 0
    for token in tokens:
        if token in NOT:
            negated = REACH
            continue
        sign = (token in POSITIVE) - (token in NEGATIVE)
        total += -sign if negated else sign
        negated = max(0, negated - 1)
    return (total > 0) - (total < 0)


def agreement(token_lists, ratings, middle: float) -> np.ndarray:
    """(n,) 1 where text and rating are on one side, 0 where on two; NaN for a rating in the middle or a text of polarity 0."""
    signs = np.array([polarity(tokens) for tokens in token_lists], dtype=float)
    wanted = np.sign(np.asarray(ratings, dtype=float) - middle)
    return np.where(signs * wanted == 0, np.nan, (signs == wanted).astype(float))
