"""Repairs of what the stack around RecBole took away: names of numpy and scipy, and ray."""

import importlib
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from scipy.sparse import dok_matrix
from torch.torch_version import TorchVersion

from recbole_persona.upstream.repair import repair, replace_everywhere, standing_in, when_imported


@repair("config/configurator.py:625", "Config() reads np.float_ and its kin, which numpy 2 no longer has")
def numpy_names():
    removed = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "float": np.float64}
    removed |= {"int": np.int_, "object": np.object_, "str": np.str_, "complex": np.complex128, "unicode": np.str_}
    missing = {name: value for name, value in removed.items() if name not in np.__dict__}
    for name, value in missing.items():
        setattr(np, name, value)


@repair("config/configurator.py:628", "Config() rebinds np.bool and np.long, which numpy 2 owns, in the whole process")
def numpy_owns_its_names():
    from recbole.config import Config

    Config.compatibility_settings = lambda self: None  # numpy_names has done it for the process


@repair("model/general_recommender/lightgcn.py:111", "dok_matrix._update, used by eight graph models, left scipy 1.13")
def dok_matrix_update():
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, data: self._dict.update(data)


@repair("quick_start/quick_start.py:20", "ray is imported eagerly, and today's numpy and setuptools break its import")
def ray_when_used():
    """``recbole.quick_start`` gets a ``tune`` that imports ray at the first report, and only inside a ray session."""
    if "recbole.quick_start.quick_start" in sys.modules:
        return

    def report(**metrics):
        session = sys.modules.get("ray.air.session")
        if session is not None:
            importlib.import_module("ray.tune").report(**metrics)

    stand_in, tune = ModuleType("ray"), ModuleType("ray.tune")
    stand_in.tune, tune.report = tune, report
    with standing_in(**{"ray": stand_in, "ray.tune": tune}):
        importlib.import_module("recbole.quick_start.quick_start")


@repair("trainer/trainer.py:235", "torch.cuda.amp is deprecated, and each epoch of training warns of it")
def mixed_precision_without_warnings():
    def mend(trainer):
        trainer.amp = SimpleNamespace(
            GradScaler=partial(torch.amp.GradScaler, "cuda"), autocast=partial(torch.autocast, "cuda")
        )

    when_imported("recbole.trainer.trainer", mend)


@repair("utils/utils.py:298", "get_flops() counts with thop, which asks for distutils, gone in Python 3.12")
def flops_without_distutils():
    upstream = importlib.import_module("recbole.utils.utils").get_flops
    distutils, version = ModuleType("distutils"), ModuleType("distutils.version")
    distutils.version, version.LooseVersion = version, TorchVersion  # thop compares versions of torch

    def get_flops(*args, **kwargs):
        with standing_in(**{"distutils": distutils, "distutils.version": version}):
            return upstream(*args, **kwargs)

    replace_everywhere(upstream, get_flops)
