"""Search for the best settings: --model=… --dataset=… [--space=FILE] [--trials=50] [--workers=2] [--key=value …].

Trials are judged on the validation part; the best one alone is tested, with --seeds. A search that was stopped goes on
with --resume; the same command on another machine, with the same --storage, works on the same study.
"""

import os
import shlex
import statistics
import sys

from recbole_persona.cli.run import split_files
from recbole_persona.cli.tables import print_table
from recbole_persona.config import typed
from recbole_persona.errors import UserError, hidden

takes_settings = True
_SHOWN = 10  # trials


def add_arguments(parser) -> None:
    parser.add_argument("--model", "-m", help="as for run")
    parser.add_argument("--dataset", "-d", help="as for run")
    parser.add_argument(
        "--config_files", nargs="*", default=[], metavar="FILE", help="YAML files, comma- or space-separated"
    )
    parser.add_argument("--space", metavar="FILE", help="what varies: YAML, or a RecBole hyper file; ours by default")
    parser.add_argument("--trials", type=int, default=50, help="that are to finish, over all workers (50)")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine (1)")
    parser.add_argument("--study_dir", metavar="DIR", help="the search's folder (studies/<study_name>)")
    parser.add_argument("--study_name", metavar="NAME", help="in the storage (<dataset>-<model>)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get("OPTUNA_STORAGE"),
        help="sqlite:///FILE, postgresql://…, mysql://… or journal:///FILE; $OPTUNA_STORAGE where it is set",
    )
    parser.add_argument("--sampler", default="tpe", help="tpe, random, gp, cmaes, grid, brute, qmc, nsgaii")
    parser.add_argument("--pruner", default="growth", help="growth, median, hyperband, halving, percentile, none")
    parser.add_argument("--objectives", help="such as ndcg@10,tdd@10; also parameters, seconds_per_user")
    parser.add_argument("--seeds", help="of the tests of the best settings, such as 2020,2021; none for no test")
    parser.add_argument(
        "--select_seeds", help="choose by the mean over these and the search's seed, such as 2021,2022 (docs/tune.md)"
    )
    parser.add_argument("--finalists", default="5", help="best trials that are trained with --select_seeds (5), or all")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no trial after so long")
    parser.add_argument(
        "--grace", type=float, metavar="SECONDS", help="without a heartbeat: the trial was killed (120)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a study that is not complete")
    parser.add_argument("--join", action="store_true", help="only work on the trials of a study begun elsewhere")


def main(arguments) -> int:
    from recbole_persona.search.tuning import tune

    if arguments.storage:  # W&B, for one, sends the command line to its host
        sys.argv[1:] = [hidden(argument, [arguments.storage]) for argument in sys.argv[1:]]
    chosen = {
        name: getattr(arguments, name)
        for name in ("space", "trials", "workers", "study_dir", "study_name", "storage", "resume", "join", "timeout")
    }
    if arguments.grace is not None:
        chosen["grace"] = arguments.grace
    found = tune(
        arguments.model,
        arguments.dataset,
        [file for group in arguments.config_files for file in split_files(group)],
        arguments.settings,
        sampler=typed(arguments.sampler),
        pruner=typed(arguments.pruner),
        objectives=arguments.objectives.split(",") if arguments.objectives else None,
        seeds=_seeds("seeds", arguments.seeds),
        select_seeds=_seeds("select_seeds", arguments.select_seeds),
        finalists=_finalists(arguments.finalists),
        **chosen,
    )
    if not arguments.join:
        print_study(found)
    return 0


def _finalists(text) -> int | None:
    if text.lower() in ("all", "none"):
        return None
    if not text.isdigit():
        raise UserError(f"--finalists must be a whole number, or all; it is {text!r}.")
    return int(text)


def _seeds(option, text) -> list[int] | None:
    if text is None or text.lower() == "none":
        return None if text is None else []
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"--{option} must be whole numbers, such as 2020,2021, or none; it is {text!r}.") from None


def print_study(found: dict) -> None:
    """The best trials or the front, the best settings with their ranges, and their test over the seeds."""
    budget = found["budget"]
    _print_trials(found)
    print(
        f"{budget['trials']} trials, {budget['pruned']} pruned, {budget['failed']} failed; {budget['epochs']} epochs, "
        f"{budget['seconds']:.0f} seconds"
    )
    failed = [row for row in found["trials"] if row["state"] == "failed"]
    if failed:
        print(f"trial {failed[-1]['number']} failed: {failed[-1]['reason']}")
    if found["defaults_outside"]:
        print(f"outside its range, and so not tried first: the default of {', '.join(found['defaults_outside'])}")
    if found["front"] is not None:
        for point in found["front"]:
            print(f"trial {point['number']}: {_again(point['config'], found)}")
        return
    if found["selection"]:
        _print_selection(found["selection"], next(iter(found["objectives"])))
    for name, end in found["edges"].items():
        print(f"the best {name} stands at the {end} end of its range: widen the range and search again")
    ranges = [(name, found["best_params"].get(name, "-"), text) for name, text in found["space"].items()]
    print_table("the best settings", {"setting": "left", "best": "right", "searched": "left"}, ranges)
    if found["test"]:
        _print_test(found["test"])
    print(f"again: {_again(found['best_config'], found)}")


def _again(config, found) -> str:
    """The command that trains with the settings of a file, which holds nothing of this machine."""
    arguments = [f"--{key}={value}" for key, value in found.get("machine", {}).items()]
    return shlex.join(["recbole-persona", "run", f"--config_files={config}", *arguments])


def _print_selection(told, objective):
    cells = [
        (
            each["number"],
            f"{each['mean']:.4f}",
            " ".join(f"{score:.4f}" for score in each["scores"]),
            f"{each['parameters']:,}",
            ", ".join(f"{name} {_short(value)}" for name, value in each["params"].items()),
        )
        for each in told["finalists"]
    ]
    columns = {
        "trial": "right",
        f"mean {objective}": "right",
        "by seed": "left",
        "parameters": "right",
        "settings": "left",
    }
    print_table(f"finalists (validation), seeds {', '.join(map(str, told['seeds']))}", columns, cells)
    print(
        f"chosen: trial {told['chosen']}, the simplest within one standard error ({told['standard_error']:.4f}) of the best mean"
    )


def _print_trials(found):
    names = found["objectives"]
    rows = [{**row, "values": row["value"] if len(names) > 1 else [row["value"]]} for row in found["trials"]]
    rows = [row for row in rows if None not in row["values"]]
    if found["front"] is not None:
        front = [point["number"] for point in found["front"]]
        rows = [row for row in rows if row["number"] in front]
    rows.sort(key=lambda row: row["values"][0], reverse=next(iter(names.values())) == "maximize")
    rows.sort(key=lambda row: row["state"] != "complete")  # what a pruned trial had reached is no final value
    columns = {
        "trial": "right",
        "state": "left",
        **dict.fromkeys(names, "right"),
        "epochs": "right",
        "settings": "left",
    }
    cells = [
        (
            row["number"],
            row["state"],
            *(f"{value:.6g}" for value in row["values"]),
            row["epochs"],
            ", ".join(f"{name} {_short(value)}" for name, value in row["params"].items()),
        )
        for row in (rows if found["front"] is not None else rows[:_SHOWN])
    ]
    title = "the front" if found["front"] is not None else f"the best of {len(found['trials'])} trials (validation)"
    print_table(f"{title}, {found['study_name']}", columns, cells)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_test(rows):
    if not rows[0]["test"]:
        return print("The data have no test part: the best settings are not tested.")
    cells = []
    for metric in rows[0]["test"]:
        values = [row["test"][metric] for row in rows]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells.append((metric, f"{statistics.mean(values):.4f}{spread}"))
    seeds = ", ".join(str(row["seed"]) for row in rows)
    print_table(f"test of the best settings, seeds {seeds}", {"metric": "left", "mean ± sd": "right"}, cells)
