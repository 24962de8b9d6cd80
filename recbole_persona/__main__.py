import sys

from recbole_persona.cli import main

sys.exit(main())
