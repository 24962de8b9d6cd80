"""Repairs of what RecBole pickles: checkpoints, and its caches of data sets."""

import importlib
import os
import secrets
from logging import getLogger
from types import SimpleNamespace
from unittest.mock import patch

import torch
from recbole.config import Config
from recbole.utils import init_seed

from recbole_persona.errors import UserError
from recbole_persona.trust import refuse_foreign
from recbole_persona.upstream.files import load_tree, save_tree
from recbole_persona.upstream.repair import repair, replace_everywhere, seen_as, when_imported
from recbole_persona.upstream.tree import ModuleState, same_kind

_READERS = [
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.sequential_recommender.s3rec",
    "recbole.model.context_aware_recommender.kd_dagfm",
]


def _save(state, path, **_):
    save_tree(state, path)


def _load(path, map_location="cpu", **_):
    return load_tree(path, map_location)


_safe_torch = seen_as(torch, save=_save, load=_load)


@repair("trainer/trainer.py:308", "checkpoints pickle the whole Config, which torch >= 2.6 refuses to load again")
def safe_checkpoints():
    """RecBole's own ``_save_checkpoint``, ``resume_checkpoint`` and ``evaluate`` run as they are, on safe files."""
    for name in _READERS:
        when_imported(name, lambda module: setattr(module, "torch", _safe_torch))


@repair("trainer/trainer.py:132", "two trainers made in the same second write to the same file")
def one_file_per_trainer():
    trainer = importlib.import_module("recbole.trainer.trainer")  # there, the local time does nothing but name files
    upstream = trainer.get_local_time
    trainer.get_local_time = lambda: f"{upstream()}-{secrets.token_hex(3)}"


@repair("quick_start/quick_start.py:250", "load_data_and_model() unpickles the checkpoint")
def safe_load_data_and_model():
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    upstream, create_dataset = quick_start.load_data_and_model, quick_start.create_dataset

    def of_the_run(config):
        if config["run_dir"]:  # a run's split depends on split_seed; the upstream body has just set seed
            init_seed(config["split_seed"], config["reproducibility"])
        return create_dataset(config)

    def load_data_and_model(model_file, trust=False):
        def load(path, **options):
            state = _load(path, **options)
            if path == model_file:
                if not isinstance(state, dict) or not isinstance(state.get("config"), Config):
                    raise UserError(f"{path} holds no model with its settings.")
                if not trust:
                    refuse_foreign(path, state["config"].final_config_dict)
            return state

        # the upstream body imports torch by itself
        with patch.object(torch, "load", load), patch.object(quick_start, "create_dataset", of_the_run):
            return upstream(model_file)

    load_data_and_model.__doc__ = upstream.__doc__
    replace_everywhere(upstream, load_data_and_model)


@repair("model/abstract_recommender.py:69", "other_parameter() holds whole modules, which no safe format can rebuild")
def modules_in_other_parameter():
    from recbole.model.abstract_recommender import AbstractRecommender

    upstream = AbstractRecommender.load_other_parameter

    def load_other_parameter(self, para):
        for key, value in (para or {}).items():  # upstream sets every attribute that the file names
            declared = key in getattr(self, "other_parameter_name", ())
            own = getattr(self, key) if declared else None
            fits = isinstance(value, ModuleState) if isinstance(own, torch.nn.Module) else same_kind(own, value)
            if not declared or not fits:
                raise ValueError(f"{type(self).__name__} keeps no {type(value).__name__} named {key!r}")
        states = {key: value for key, value in (para or {}).items() if isinstance(value, ModuleState)}
        for key, state in states.items():
            getattr(self, key).load_state_dict(state)
        upstream(self, {key: value for key, value in (para or {}).items() if key not in states})

    AbstractRecommender.load_other_parameter = load_other_parameter


@repair("data/utils.py:61", "a data set found in checkpoint_dir is unpickled before its settings are compared")
def no_pickled_caches():
    """RecBole's caches of data sets and loaders are off: none is found, none is written."""
    data_utils = importlib.import_module("recbole.data.utils")
    data_utils.os = SimpleNamespace(path=SimpleNamespace(join=os.path.join, exists=lambda file: False))

    def save(*_, **__):
        getLogger().warning("save_dataset and save_dataloaders are off: RecBole would write pickles.")

    importlib.import_module("recbole.data.dataset").Dataset.save = save
    replace_everywhere(data_utils.save_split_dataloaders, save)
