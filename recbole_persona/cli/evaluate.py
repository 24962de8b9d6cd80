"""Test a finished run again, with its best weights: recbole-persona evaluate --run=DIR [--key=value …].

Settings may change how it is computed (gpu_id, eval_batch_size) or what is measured (metrics, topk); others are refused.
Nothing is written.
"""

import json

from recbole_persona.cli.tables import add_run, print_protocol, print_table

takes_settings = True


def add_arguments(parser) -> None:
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(arguments) -> int:
    from recbole_persona.runner import evaluate_run
    from recbole_persona.runner.training import protocol
    from recbole_persona.runs import RunFolder

    result, _ = evaluate_run(arguments.run, arguments.settings, arguments.trust)
    values = {metric: float(value) for metric, value in result.items()}
    if arguments.json:
        print(json.dumps(values, indent=1))
    else:
        print_table(
            f"test of {arguments.run}",
            {"metric": "left", "test": "right"},
            [(m, f"{v:.4f}") for m, v in values.items()],
        )
        print_protocol(protocol(RunFolder(arguments.run).config(arguments.settings, arguments.trust)))
    return 0
