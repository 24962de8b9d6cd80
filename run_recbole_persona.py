"""Train and test one model: python run_recbole_persona.py --model=AMPCF --dataset=ml-100k [--key=value …]."""

import sys

from recbole_persona.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
