"""Repairs of RecBole's own search of hyper-parameters, ``HyperTuning``, which stands on hyperopt."""

import ast
import importlib

import numpy as np

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, repair, seen_as


@repair("trainer/hyper_tuning.py:239", "HyperTuning runs the text of its parameter file as code")
def parameter_files_are_read():
    def literal(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise UserError(f"The choices {text!r} in the parameter file are no list such as [0.01,0.001].") from None

    importlib.import_module("recbole.trainer.hyper_tuning").eval = literal


@repair("trainer/hyper_tuning.py:117", "the exhaustive search hands hyperopt a generator of numpy's old kind")
def generators_of_the_new_kind():
    module = importlib.import_module("recbole.trainer.hyper_tuning")
    module.np = seen_as(np, random=seen_as(np.random, RandomState=np.random.default_rng))


@repair("trainer/hyper_tuning.py:219", "HyperTuning without hyperopt ends in a traceback")
def tuning_names_its_extra():
    @around(importlib.import_module("recbole.trainer.hyper_tuning").HyperTuning, "__init__")
    def init(upstream, *args, **kwargs):
        try:
            upstream(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise UserError("HyperTuning searches with hyperopt: pip install recbole_persona[hyperopt].") from error
