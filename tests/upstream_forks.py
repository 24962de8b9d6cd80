"""The process in which ``test_upstream_repairs.py`` runs the checks of ``upstream_checks.py``, as a script.

Each line of standard input names a check, and a fork of this process runs it in an empty folder. ``repaired`` forks
from a process that has imported ``recbole_persona``, ``without`` from one that has not, where the fork leaves out the
repair of that name.
"""

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from upstream_checks import CHECKS


def answer(mode) -> None:
    """For each name of a check on standard input, print the traceback of its failure as JSON, or null."""
    import networkx  # noqa: F401  (what a fork need not import again)
    import scipy.sparse  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports half of torch
    if mode == "repaired":
        import recbole_persona

        for kind in ("general", "sequential", "context_aware", "knowledge_aware"):
            importlib.import_module(f"recbole.model.{kind}_recommender")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name = line.strip()
        with tempfile.TemporaryDirectory() as folder:
            if (child := os.fork()) == 0:
                os.chdir(folder)
                if mode == "without":
                    os.environ["RECBOLE_PERSONA_SKIP_REPAIRS"] = name
                try:
                    import recbole_persona  # noqa: F401

                    CHECKS[name]()
                    fault = None
                except BaseException:
                    fault = traceback.format_exc()
                Path("fault.json").write_text(json.dumps(fault))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            file = Path(folder) / "fault.json"
            fault = file.read_text() if status == 0 and file.is_file() else json.dumps(f"it ended with status {status}")
        print(fault, file=answers, flush=True)


if __name__ == "__main__":
    answer(sys.argv[1])
