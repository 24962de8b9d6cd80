"""Train and test one model: --model=… --dataset=… [--config_files=a.yaml,b.yaml] [--key=value …].

Every RecBole setting can be given as --key=value. The run is a folder; a finished one is printed, not run again.
"""

from pathlib import Path

from recbole_persona.cli.tables import add_trust, print_result

takes_settings = True


def add_arguments(parser) -> None:
    parser.add_argument("--model", "-m", help="AMPCF, any RecBole model, recbole:Name, or package.module:Class")
    parser.add_argument("--dataset", "-d", help="ml-100k and planted-personas ship; others lie in --data_path")
    parser.add_argument(
        "--config_files", nargs="*", default=[], metavar="FILE", help="YAML files, comma- or space-separated"
    )
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder to the same bits")
    parser.add_argument("--rerun", action="store_true", help="start again in a folder that holds a run")
    add_trust(parser)


def main(arguments) -> int:
    from recbole_persona.runner import run

    outcome = run(
        arguments.model,
        arguments.dataset,
        config_file_list=[file for group in arguments.config_files for file in split_files(group)],
        config_dict=arguments.settings,
        resume=arguments.resume or False,
        rerun=arguments.rerun,
        trust=arguments.trust,
    )
    if not outcome["trained"]:
        print("The run is complete already and nothing was trained (--rerun trains again); its result:")
    print_result(outcome["result"], outcome["run_dir"])
    return 0


def split_files(group: str) -> list[str]:
    """The files that one argument names, separated by commas or spaces; a file whose own name has them is found first."""
    if Path(group).is_file():
        return [group]
    for separator in (",", None):
        parts = [part for part in group.split(separator) if part]
        if len(parts) > 1:
            return [file for part in parts for file in split_files(part)]
    return [group.strip(", ")] if group.strip(", ") else []
