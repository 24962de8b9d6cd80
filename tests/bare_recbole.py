"""Train models with bare RecBole, as its users do: ``python bare_recbole.py DATA FOLDER SETTINGS``.

SETTINGS is JSON, ``{model: settings}``. Writes RecBole's own pickled checkpoint as FOLDER/MODEL.pth, and the test result
beside it. Nothing of ``recbole_persona`` is imported; the names of numpy that RecBole asks for are set by hand.
"""

import json
import sys
from pathlib import Path

import numpy as np

for name in ("float_", "complex_", "unicode_", "float", "int", "object", "str", "complex", "unicode"):
    if name not in np.__dict__:
        plain = {"float": float, "complex": complex, "unicode": str, "int": int, "object": object, "str": str}
        setattr(np, name, plain[name.rstrip("_")])


def train(name, data, folder, settings):
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    places = {"data_path": str(Path(data).parent), "checkpoint_dir": folder}
    config = Config(model=name, dataset="tiny", config_dict=settings | places)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], True)
    model = get_model(name)(config, loaders[0]._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    trainer.fit(loaders[0], loaders[1])
    result = trainer.evaluate(loaders[2], load_best_model=False)
    trainer._save_checkpoint(0)  # the weights that were tested
    Path(trainer.saved_model_file).rename(Path(folder) / f"{name}.pth")
    (Path(folder) / f"{name}.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    arguments, sys.argv[1:] = sys.argv[1:], []  # RecBole reads the command line, too
    data, folder, models = arguments
    for name, settings in json.loads(models).items():
        train(name, data, folder, settings)
