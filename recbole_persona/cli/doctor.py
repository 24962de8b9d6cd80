"""Versions, what is repaired, what is missing."""

import importlib.util
import platform

from recbole_persona.cli.tables import print_table

EXTRAS = {
    "faiss": ("faiss", "NCL, nearest neighbours, indexes of exported items"),
    "pyarrow": ("parquet", "vectors in Parquet"),
    "cornac": ("cornac", "user_vectors: bivae"),
    "lightgbm": ("trees", "RecBole's LightGBM"),
    "xgboost": ("trees", "RecBole's XGBoost"),
    "wandb": ("wandb", "log_wandb"),
    "hyperopt": ("hyperopt", "RecBole's HyperTuning"),
    "matplotlib": ("plots", "pictures of leaderboards"),
    "psycopg": ("postgres", "searches in PostgreSQL"),
    "pymysql": ("mysql", "searches in MySQL"),
    "cmaes": ("cmaes", "the sampler cmaes"),
}


def add_arguments(parser) -> None:
    parser.add_argument("--repairs", action="store_true", help="list every repair with its upstream line")


def main(arguments) -> int:
    import torch

    from recbole_persona.runs import versions
    from recbole_persona.upstream import REPAIRS, applied

    found = versions() | {
        "platform": platform.platform(),
        "CUDA": str(torch.version.cuda) if torch.cuda.is_available() else "none",
    }
    print_table("versions", {"what": "left", "version": "left"}, list(found.items()))
    in_force = applied()
    if arguments.repairs:
        rows = [(r.name, r.upstream, r.fault, "yes" if r.name in in_force else "no") for r in REPAIRS.values()]
        print_table("repairs", {"repair": "left", "RecBole": "left", "fault": "left", "in force": "left"}, rows)
    print(f"{len(in_force)} of {len(REPAIRS)} repairs of RecBole are in force (--repairs lists them).")
    missing = [(m, e, use) for m, (e, use) in EXTRAS.items() if importlib.util.find_spec(m) is None]
    if missing:
        rows = [(module, use, f'pip install "recbole_persona[{extra}]"') for module, extra, use in missing]
        print_table("optional, not installed", {"module": "left", "needed by": "left", "command": "left"}, rows)
    return 0 if len(in_force) == len(REPAIRS) else 1
