"""Write docs/upstream.md: every repair of RecBole, and every model class of RecBole without and with them.

    python docs/upstream.py

All that stands in the tables is measured here, but for the column on resuming, which is read from
``docs/upstream_resume.json``, written by ``tests/test_resume.py``. Two minutes on one core.
"""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import upstream_models  # noqa: E402

from recbole_persona.registry import recbole_model_names  # noqa: E402
from recbole_persona.upstream import REPAIRS  # noqa: E402
from recbole_persona.upstream.files import write_text  # noqa: E402

PAGE = REPOSITORY / "docs" / "upstream.md"
CHILD = [sys.executable, str(REPOSITORY / "tests" / "upstream_models.py")]


def table(header, rows) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def repairs_table() -> str:
    rows = [(f"`{entry.name}`", f"`{entry.upstream}`", entry.fault) for entry in REPAIRS.values()]
    return table(["repair", "RecBole", "fault without it"], rows)


def bare(mode, names, folder) -> dict:
    """What ends each model in RecBole alone (``bare``), or with numpy's old names put back (``by-hand``)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*CHILD, mode, folder, *names], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def quick_start_fault(folder) -> str:
    """The last line of ``import recbole.quick_start`` in RecBole alone."""
    command = [sys.executable, "-c", "import recbole.quick_start"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else "nothing"


def ours(names, folder) -> dict:
    """For each model or variant: the seconds, how far the scores of another process are off, and notes; or its fault."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([*CHILD, "scores"], text=True, cwd=folder, env=environment, **pipes)
    upstream_models.train("BPR", folder, folder)  # what is imported at the first training is no model's time
    results = {}
    for name in names:
        try:
            trained = upstream_models.train(name, folder, folder)
            print(trained.file, file=child.stdin, flush=True)
            answer = Path(child.stdout.readline().strip())
            if answer.suffix != ".npy":
                raise RuntimeError(answer.read_text().strip().splitlines()[-1])
            loaded, other_seed = np.load(answer)
            results[name] = {
                "seconds": trained.seconds,
                "difference": float(np.abs(loaded - trained.scores.numpy()).max()),
                "other seed": float(np.abs(other_seed - trained.scores.numpy()).max()),
                "random": trained.random,
            }
        except Exception as error:
            results[name] = {"fault": f"{type(error).__name__}: {error}"}
        print(name, results[name], flush=True)
    child.communicate()
    return results


def reloaded(result) -> str:
    if "fault" in result:
        return f"no: {result['fault']}"
    far = max(result["difference"], result["other seed"])
    return "equal" if far == 0 else f"within {far:.0e}"


def notes(name, result) -> str:
    """What there is to know of a model: its stages, its own repairs, whether it scores at random."""
    from recbole.utils import get_model

    parts = []
    if (number := len(upstream_models.stages(name))) > 1:
        parts.append(f"{number} training stages")
    file = Path(inspect.getfile(get_model(name))).name
    own = [f"`{entry.name}`" for entry in REPAIRS.values() if entry.upstream.split(":")[0].endswith(f"/{file}")]
    if own:
        parts.append(f"repaired by {', '.join(own)}")
    if result.get("random"):
        parts.append("draws random numbers when it scores")
    return "; ".join(parts)


def resume(name) -> str:
    file = REPOSITORY / "docs" / "upstream_resume.json"
    entry = json.loads(file.read_text()).get(name) if file.is_file() else None
    if entry is None:
        return "-"
    return "yes" if entry["exact"] else f"no: {entry['reason']}"


def main() -> None:
    torch.set_num_threads(1)
    names = list(recbole_model_names())
    variants = list(yaml.safe_load((REPOSITORY / "tests" / "upstream_models.yaml").read_text())["variants"])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        upstream_models.write_tiny(folder)
        imported = quick_start_fault(folder)
        faults = {mode: bare(mode, names, folder) for mode in ("bare", "by-hand")}
        results = ours(names + variants, folder)
    runs = sum("fault" not in results[name] for name in names)
    stack = ", ".join(f"{package} {version(package)}" for package in ("recbole", "torch", "numpy", "scipy", "pandas"))
    told = list(dict.fromkeys(fault for found in faults.values() for fault in found.values() if fault))
    told_rows = list(enumerate(told, start=1))

    def number(fault):
        return "runs" if fault is None else f"fault {told.index(fault) + 1}"

    model_rows = [
        (
            name,
            number(faults["bare"][name]),
            number(faults["by-hand"][name]),
            reloaded(results[name]),
            f"{results[name].get('seconds', float('nan')):.1f}",
            resume(name),
            notes(name, results[name]),
        )
        for name in names
    ]
    variant_rows = [
        (name, reloaded(results[name]), f"{results[name].get('seconds', float('nan')):.1f}") for name in variants
    ]
    text = f"""# RecBole on today's stack

Written by `python docs/upstream.py`, on Python {sys.version.split()[0]}, {stack}.
Each model trains an epoch (each of its stages, where it has several) on a generated data set of {upstream_models.USERS}
users and {upstream_models.ITEMS} items, with the settings that RecBole documents for it (`tests/upstream_models.yaml`).

- Bare RecBole runs {sum(fault is None for fault in faults["bare"].values())} of {len(names)} model classes here.
  `import recbole.quick_start` alone ends in `{imported}`.
- With the names that numpy 2 removed put back by hand, and called step by step, it runs
  {sum(fault is None for fault in faults["by-hand"].values())}.
- After `import recbole_persona`, {runs} of {len(names)} train, evaluate, are saved, and score the same in another process.

## Repairs

`import recbole_persona` applies them, once. Each has a check that fails without it (`tests/upstream_checks.py`).

{repairs_table()}

## Model by model

*Bare*: what ends it in bare RecBole, called step by step as its documentation does; *by hand*: the same with numpy's old
names put back (the faults are numbered below). *Loaded*: the scores of the saved
model in another process against those of the model that was trained, both through `load_data_and_model` and loaded into
a model that was built with other random numbers. *Seconds*: CPU time of training, validation, test and saving, on one core.
*Resumes*: whether a run that was interrupted and continued ends in the same bits as one that was not
(`tests/test_resume.py`; "-": it has nothing to resume).

No sequential model's scores of a row depend on the other rows of its batch: at fixed weights they differ by at most 1e-5
of the largest score (`tests/test_upstream_models.py`).

Deviation from RecBole: parts of `eval_args` that the user leaves out are those of the model and its type; RecBole takes its
general defaults, by which `--eval_args="{{'mode': 'uni100'}}"` splits the data of a sequential model at random.

{table(["model", "bare", "by hand", "loaded", "seconds", "resumes", "notes"], model_rows)}

The faults of bare RecBole:

{table(["fault", "what"], told_rows)}

## Other ways through the models

The same for options that take another path through the code.

{table(["variant", "loaded", "seconds"], variant_rows)}
"""
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
