"""Numbers that look random and depend on nothing but what they are made of."""

import numpy as np


def mixed(state):
    """The bits of uint64 numbers stirred, one to one (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
