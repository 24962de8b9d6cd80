"""What the checks of the repairs share. RecBole is imported only inside: the repairs must come first."""

import types
from pathlib import Path

import torch
from upstream_models import stages, train, write_tiny


def pieces(name, data="data", **settings):
    """Config, model, trainer and loaders of a model on the tiny data, before training."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    if not Path(data).is_dir():
        write_tiny(data)
    model_name, own = stages(name)[-1]
    config = Config(model=model_name, dataset="tiny", config_dict=own | {"data_path": data} | settings)
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, loaders[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    return types.SimpleNamespace(config=config, model=model, trainer=trainer, train=loaders[0], test=loaders[2])


def run(name):
    write_tiny("data")
    return train(name, "data", "saved")


def saved_and_loaded(name):
    from recbole.quick_start import load_data_and_model
    from upstream_models import score

    trained = run(name)
    config, model, *_, test_data = load_data_and_model(trained.file)
    assert torch.equal(score(config, model, test_data), trained.scores)
    return config, model, test_data


def rows(loader):
    return loader.transform(loader._dataset, loader._dataset[: len(loader._dataset)])


def assert_user_error(function, *words):
    from recbole_persona.errors import UserError

    try:
        function()
    except UserError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError("no UserError")


def agreement(name):
    model, batch = (parts := pieces(name)).model.eval(), rows(parts.test)
    every = model.full_sort_predict(batch).view(len(batch), -1)
    torch.testing.assert_close(model.predict(batch), every.gather(1, batch["item_id"].unsqueeze(1)).squeeze(1))
