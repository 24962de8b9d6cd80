"""A finished run tested by other rules, in a folder like a run's: seen items masked, other negatives, altered histories."""

import time
from pathlib import Path

from recbole.utils import get_trainer

from recbole_persona.errors import UserError
from recbole_persona.evaluate.per_user import evaluate_with_table
from recbole_persona.runner.training import load, protocol
from recbole_persona.runs import RunFolder, commit, config_hash, versions


def reevaluate_run(run_dir, out_dir, config_dict, trust=False) -> dict:
    """Test the best weights of a finished run with other settings.

    The weights are those that the run's own rules chose on validation; nothing is chosen here, so that validation is left out.

    Args:
        run_dir: folder of a finished run.
        out_dir: folder for ``config.yaml, ids.json, per_user.csv.gz, result.json``; it has no weights of its own.
        config_dict: settings to change: ``mask_history``, ``eval_history``, ``eval_args``, ``metrics``, ``topk``,
            ``bertscore_encoder``.
        trust: as for :func:`recbole_persona.load`.

    Returns:
        The content of ``result.json``: that of the run, with ``protocol`` and ``test`` of the new rules and
        ``again: {of, changed}``.

    Raises:
        UserError: an ``out_dir`` that holds something else, or settings under which the split is another one.
    """
    folder = RunFolder(out_dir)
    with folder.lock():
        if folder.model_file.exists() or (folder.complete and "again" not in folder.result()):
            raise UserError(f"{folder.path} holds another run; name another out_dir.")
        loaded = load(run_dir, config_dict, trust)
        config = loaded.config
        config["run_dir"] = str(folder.path)
        folder.clear()
        start = time.perf_counter()
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, loaded.model)
        if hasattr(trainer, "eval_collector"):
            trainer.eval_collector.data_collect(loaded.train_data)
        test, table = evaluate_with_table(trainer, loaded.test_data, load_best_model=False)
        base = RunFolder(run_dir).result()
        folder.begin(config)
        folder.write_ids(loaded.dataset)
        folder.write_per_user(table)
        result = {
            **base,
            "protocol": protocol(config),
            "seconds": {**base["seconds"], "evaluate": round(time.perf_counter() - start, 3)},
            "test": dict(test),
            "config_hash": config_hash(config),
            "versions": versions(),
            "commit": commit(),
            "again": {"of": Path(run_dir).name, "changed": config_dict},
        }
        folder.write_result(result)
    return result
