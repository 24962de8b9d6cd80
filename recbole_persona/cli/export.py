"""Vectors of a finished run as files: recbole-persona export --run=DIR --out=FOLDER [--format=npz|parquet].

Users, items and personas, with their ids as in the data; where FAISS is installed and the scores are inner products, an index
of the items as well (docs/serving.md).
"""

from recbole_persona.cli.tables import add_run

takes_settings = True


def add_arguments(parser) -> None:
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a folder that does not exist or is empty")
    parser.add_argument("--format", default="npz", metavar="npz|parquet", help="of the vectors (npz)")


def main(arguments) -> int:
    from recbole_persona.runner.inference import export

    files = export(
        arguments.run, arguments.out, arguments.format, config_dict=arguments.settings, trust=arguments.trust
    )
    for file in files:
        print(file)
    return 0
