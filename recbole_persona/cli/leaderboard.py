"""Compare models under one protocol: recbole-persona leaderboard board.yaml [--workers=N].

Runs what the board still lacks, then writes its page beside it: Markdown, LaTeX, CSV, JSON and a picture. The same
command goes on where a killed one stood. docs/leaderboard.md says what stands in board.yaml.
"""

import argparse
import shutil
from itertools import accumulate

from recbole_persona.cli.tables import print_table


def add_arguments(parser) -> None:
    parser.add_argument("board", metavar="BOARD.yaml", help="data sets, protocol, seeds and rows")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that run cells (1)")
    parser.add_argument("--runs", metavar="DIR", help="folder of the runs (runs/<name of the board>)")
    parser.add_argument("--out", metavar="DIR", help="folder of the page (that of the board)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--print", action="store_true", help="print the page again from its JSON; nothing runs")
    form.add_argument(
        "--rerun",
        nargs="?",
        const="all",
        choices=("all", "failed"),
        help="run cells again: all of them (searches are kept), or those that failed",
    )
    parser.add_argument("--row", action="append", metavar="NAME", help="run this row only and replace it; repeatable")
    form.add_argument("--join", type=int, help=argparse.SUPPRESS)


def main(arguments) -> int:
    from recbole_persona.board.leaderboard import leaderboard, work_for

    if arguments.join:
        work_for(arguments.board, arguments.runs, arguments.join)
        return 0
    found = leaderboard(
        arguments.board,
        workers=arguments.workers,
        rerun=arguments.rerun or False,
        print_only=arguments.print,
        rows=arguments.row,
        runs=arguments.runs,
        out=arguments.out,
    )
    for dataset in dict.fromkeys(row["dataset"] for row in found["rows"]):
        print_rows(dataset, [row for row in found["rows"] if row["dataset"] == dataset])
    print(f"page: {', '.join(found['files'])}")
    return 0


def print_rows(dataset, rows) -> None:
    """The means of one data set's rows, of as many metrics as the screen is wide enough for."""
    known = next((list(row["metrics"]) for row in rows if row["metrics"]), [])
    ranked_by = next((row["best_against_second"]["metric"] for row in rows if "best_against_second" in row), None)
    known.sort(key=lambda metric: metric != ranked_by)
    room = (
        shutil.get_terminal_size().columns - max((len(row["name"]) for row in rows), default=0) - 24
    )  # rank, status, lines
    fitting = sum(width <= room for width in accumulate(max(len(metric), 6) + 3 for metric in known))
    metrics = known[: max(1, fitting)]
    lines = []
    for row in rows:
        means = [row["metrics"].get(metric, {}).get("mean") for metric in metrics]
        values = ["" if mean is None else f"{mean:.4f}" for mean in means]
        lines.append((row.get("rank", ""), row["name"], row["status"], *values))
    columns = {"#": "right", "row": "left", "status": "left", **dict.fromkeys(metrics, "right")}
    print_table(dataset, columns, lines)
    if len(metrics) < len(known):
        more = len(known) - len(metrics)
        print("1 more metric is on the page." if more == 1 else f"{more} more metrics are on the page.")
