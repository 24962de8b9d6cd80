"""``kill -9`` at random moments, also while a file is written: the folder stays loadable, and the bits are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("model", "kills"), [("BPR", 3), pytest.param("AMPCF", 20, marks=pytest.mark.slow)], ids=["BPR-3", "AMPCF-20"]
)
def test_killed_training_continues_to_the_same_bits(model, kills, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "kill_runs.py", model, tmp_path, str(kills)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["difference"] is None and answer["left"] == 0
    assert answer["killed"] == kills and answer["in_a_write"] >= kills // 4
