"""False flags and power of a board's test: users and seeds redrawn in each repetition, the systems equal or one 3 % better.

``python benchmarks/significance_simulation.py`` writes ``benchmarks/out/significance.json`` and the table of
``docs/significance.md``. The errors over users are those of ml-100k (943 users) and Amazon Beauty (22,363).
"""

import json
from pathlib import Path

import numpy as np

from recbole_persona.evaluate.variance_components import Component, t_test

HERE = Path(__file__).parent
USERS = {943: (0.0036, 0.33), 22363: (0.0009, 0.05)}  # standard error of a difference over users, and mean NDCG@10
DEVIATIONS = (0.0015, 0.003, 0.0047, 0.02)  # over seeds; with the last, seeds dominate
SEEDS, ROWS, REPEATS, LEVEL = (2, 3, 5), 8, 20_000, 0.05


def simulate(users: int, deviation: float, seeds: int, ratio: float = 1.0) -> dict[str, float]:
    """Shares (0 to 1) of repetitions in which a flag is set, on a page of eight rows.

    Args:
        ratio: how many times larger the deviation over seeds of the baseline and of the row beside it is.

    Returns:
        ``single``: one comparison of equal systems; ``board``: at least one of seven, after Holm; ``power``: one
        comparison where one system is 3 % better; ``pooled``: as ``single``, with the seed variance pooled over the page.
    """
    rng = np.random.default_rng([users, seeds, int(deviation * 1e5), int(ratio)])
    error, mean = USERS[users]
    deviations = deviation * np.where(np.arange(ROWS) < 2, ratio, 1.0)
    runs = deviations[:, None] * rng.normal(size=(REPEATS, ROWS, seeds))
    # Errors over users of differences to one baseline correlate by one half.
    values = error / np.sqrt(2) * rng.normal(size=(REPEATS, ROWS)) + runs.mean(-1)
    differences = values[:, 1:] - values[:, :1]
    over_users = error**2 * rng.chisquare(users - 1, size=differences.shape) / (users - 1)
    own = runs.var(-1, ddof=1) / seeds
    terms = [Component(over_users, users - 1), Component(own[:, :1], seeds - 1), Component(own[:, 1:], seeds - 1)]
    p = t_test(differences, terms)[2]  # (REPEATS, ROWS - 1)
    better = t_test(differences + 0.03 * mean, terms)[2]
    common = Component(2 * own.mean(1, keepdims=True), ROWS * (seeds - 1))
    pooled = t_test(differences, [Component(over_users, users - 1), common])[2]
    return {
        "single": float((p[:, 0] < LEVEL).mean()),
        "board": float((p.min(1) * (ROWS - 1) < LEVEL).mean()),  # Holm's first step
        "power": float((better[:, 0] < LEVEL).mean()),
        "pooled": float((pooled[:, 0] < LEVEL).mean()),
    }


def table(found: list[dict]) -> str:
    """The simulation as a Markdown table, in per cent."""
    lines = [
        "| users | seeds | deviation over seeds | single | board | power at +3 % | pooled | single, unequal | board, unequal "
        "| pooled, unequal |",
        "|" + "---:|" * 10,
    ]
    for row in found:
        cells = [f"{row['users']:,}", str(row["seeds"]), f"{row['deviation']:.4f}"]
        cells += [f"{100 * row['equal'][name]:.1f}" for name in ("single", "board", "power", "pooled")]
        cells += [f"{100 * row['unequal'][name]:.1f}" for name in ("single", "board", "pooled")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    found = [
        {
            "users": users,
            "seeds": seeds,
            "deviation": deviation,
            "equal": simulate(users, deviation, seeds),
            "unequal": simulate(users, deviation, seeds, ratio=3.0),
        }
        for users in USERS
        for seeds in SEEDS
        for deviation in DEVIATIONS
    ]
    (HERE / "out/significance.json").write_text(json.dumps(found, indent=1) + "\n")
    page = HERE.parent / "docs/significance.md"
    before, _, rest = page.read_text().partition("<!-- simulation -->\n")
    after = rest.partition("<!-- /simulation -->")[2]
    page.write_text(f"{before}<!-- simulation -->\n{table(found)}\n<!-- /simulation -->{after}")


if __name__ == "__main__":
    main()
