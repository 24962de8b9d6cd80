"""Results as tables on the screen."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def add_run(parser) -> None:
    """The options of a command that reads a finished run."""
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of the run")
    add_trust(parser)


def add_trust(parser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="run code that only the config.yaml of a run folder names (docs/runs.md)"
    )


def print_result(result: dict, run_dir: str) -> None:
    """The result of a run: validation and test side by side, and where its folder is."""
    table = Table(title=f"{result['model']} on {result['dataset']}, seed {result['seed']}", title_justify="left")
    table.add_column("metric")
    parts = {"best valid": result["best_valid"], "test": result["test"]}
    for name in parts:
        table.add_column(name, justify="right")
    for metric in dict.fromkeys([*result["test"], *result["best_valid"]]):
        values = [values.get(metric) for values in parts.values()]
        table.add_row(metric, *("" if value is None else f"{value:.4f}" for value in values))
    if not table.row_count:
        table.add_row("none: there is no validation and no test part")
    console = Console()
    console.print(table)
    print_protocol(result["protocol"])
    seconds = result["seconds"]
    epochs = "1 epoch" if result["epochs"] == 1 else f"{result['epochs']} epochs"
    console.print(
        f"{epochs}; {result['n_trainable']:,} trainable parameters of {result['n_parameters']:,} in total; "
        "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
        highlight=False,
    )
    print(f"run folder: {run_dir}")  # print: a path must not be wrapped


def print_protocol(protocol: dict) -> None:
    """What the metrics mean, in a line."""
    from recbole_persona.evaluate.protocols import in_words

    Console().print(f"protocol: {in_words(protocol)}", highlight=False, markup=False)


def print_table(title: str, columns: dict[str, str], rows: list[tuple]) -> None:
    """Rows under ``columns`` (name -> "left" or "right")."""
    table = Table(title=title, title_justify="left")
    for name, side in columns.items():
        table.add_column(name, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))  # brackets are text, not mark-up
    Console().print(table)
