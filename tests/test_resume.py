"""A run that was stopped and continued ends with the same bits as one that was not: weights, optimisers, random
numbers, losses, best validation result, test result.

``python tests/test_resume.py`` compares every model of RecBole that is trained by gradients, and writes
``docs/upstream_resume.json``.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import resume_runs

REPORT = Path(__file__).parent.parent / "docs" / "upstream_resume.json"

# Kinds of state: three optimisers, one of them rebound; clusters found before the epoch; tables written in place; a GRU's
# second list of its weights. The long test has the others.
KINDS = ["RecVAE", "NCL", "DiffRec", "GRU4Rec"]


def test_each_kind_of_state_resumes_to_the_same_bits(tmp_path):
    assert resume_runs.compare(KINDS, tmp_path) == dict.fromkeys(KINDS)


@pytest.mark.slow
def test_every_gradient_model_resumes_to_the_same_bits(tmp_path):
    names = [name for name in resume_runs.gradient_models() if name not in KINDS]
    errors = resume_runs.compare(names, tmp_path)
    excused = {name for name, row in json.loads(REPORT.read_text()).items() if not row["exact"]}
    assert {name: error for name, error in errors.items() if error and name not in excused} == {}


def write_report(names) -> None:
    """Compare, and enter ``{model: {"exact", "reason"}}`` for ``names`` into the report."""
    from recbole_persona.upstream.files import write_text

    rows = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, error in resume_runs.compare(names, folder).items():
            rows[name] = {"exact": error is None, "reason": error or ""}
            print(name, error or "exact")
    write_text(REPORT, json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


if __name__ == "__main__":
    import recbole_persona  # noqa: F401

    write_report(sys.argv[1:] or resume_runs.gradient_models())
