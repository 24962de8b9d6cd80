"""Test a finished run again, with its best weights: recbole-persona evaluate --run=DIR [--key=value …].

Settings may change how it is computed (gpu_id, eval_batch_size) or what is measured (metrics, topk); nothing is written.
"""

import json

from recbole_persona.cli.tables import print_protocol, print_table

takes_settings = True


def add_arguments(parser) -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(arguments) -> int:
    from recbole_persona.runner import evaluate_run
    from recbole_persona.runner.training import protocol
    from recbole_persona.runs import RunFolder

    result, _ = evaluate_run(arguments.run, arguments.settings)
    values = {metric: float(value) for metric, value in result.items()}
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        print_table(
            f"test of {arguments.run}",
            {"metric": "left", "test": "right"},
            [(m, f"{v:.4f}") for m, v in values.items()],
        )
        print_protocol(protocol(RunFolder(arguments.run).config(arguments.settings)))
    return 0
