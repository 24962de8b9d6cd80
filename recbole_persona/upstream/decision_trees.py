"""Repairs of the decision trees, XGBoost and LightGBM: their settings, their columns and their checkpoints."""

import importlib
import warnings
from types import SimpleNamespace

import torch

from recbole_persona.errors import UserError
from recbole_persona.upstream.files import load_tree
from recbole_persona.upstream.repair import around, repair, replace_everywhere, seen_as, when_imported


@repair("config/configurator.py:242", "XGBoost.yaml is looked for, xgboost.yaml is there: no default is read")
def trees_find_their_yaml():
    from recbole.config import Config
    from recbole.utils import ModelType

    @around(Config, "_load_internal_config_dict")
    def load(upstream, self, model, model_class, dataset):
        upstream(self, model.lower() if model_class.type is ModelType.DECISIONTREE else model, model_class, dataset)


@repair("model/exlib_recommender/__init__.py:1", "either tree model asks for both libraries, with a traceback")
def trees_name_their_extra():
    upstream = importlib.import_module("recbole.utils.utils").get_model

    def get_model(model_name):
        try:
            return upstream(model_name)
        except ModuleNotFoundError as error:
            if error.name not in ("lightgbm", "xgboost"):
                raise
            raise UserError(f"{model_name} needs lightgbm and xgboost: pip install recbole_persona[trees].") from error

    replace_everywhere(upstream, get_model)


@repair("data/utils.py:51", "trees get the plain data set, and convert_token_to_onehot ends in an AttributeError")
def trees_get_their_data_set():
    datasets = importlib.import_module("recbole.data.dataset")

    class TreeDataset(datasets.DecisionTreeDataset):
        def _convert_token_to_hash(self):
            if self.config["token_num_threshold"] is None:
                self.config["token_num_threshold"] = self.config["token_num_threhold"]  # as RecBole's YAML spells it
            super()._convert_token_to_hash()

    datasets.XGBoostDataset = datasets.LightGBMDataset = TreeDataset


@repair("trainer/trainer.py:933", "trees are fed garbage for columns that hold sequences or embedded numbers")
def trees_see_every_column():
    def mend(trainer):
        @around(trainer.DecisionTreeTrainer, "_interaction_to_sparse")
        def _interaction_to_sparse(upstream, self, dataloader):
            return upstream(self, SimpleNamespace(_dataset=WideRows(dataloader._dataset)))

    when_imported("recbole.trainer.trainer", mend)


class WideRows:
    """A data set whose rows hold numbers alone: a sequence of tokens becomes one 0/1 column per token."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __getitem__(self, index):
        from recbole.data.interaction import Interaction
        from recbole.utils import FeatureType

        wide = {}
        for name, value in self.dataset[index].interaction.items():
            kind = self.dataset.field2type[name]
            if value.dim() == 1:
                wide[name] = value
            elif kind is FeatureType.TOKEN_SEQ:
                for token in range(1, self.dataset.num(name)):
                    wide[f"{name}={token}"] = (value == token).any(dim=1).float()
            else:  # (B, 2): a number and the place of its embedding; (B, L) or (B, L, 2): a sequence of them
                numbers = value[:, :1] if kind is FeatureType.FLOAT else value.flatten(1)  # (B, n)
                wide |= {f"{name}[{place}]": column for place, column in enumerate(numbers.T)}
        return Interaction(wide)


@repair("model/exlib_recommender/lightgbm.py:34", "a loaded LightGBM is empty: load_state_dict() sets a local name")
def lightgbm_loads():
    def mend(module):
        booster = module.lgb.Booster

        def load_state_dict(self, state):
            booster.__init__(self, model_str=bytes(state.cpu().numpy()).decode())

        module.LightGBM.load_state_dict = load_state_dict

    when_imported("recbole.model.exlib_recommender.lightgbm", mend)


@repair("model/exlib_recommender/xgboost.py:34", "a loaded XGBoost depends on a file that its checkpoint only names")
def xgboost_loads():
    def mend(module):
        def load_state_dict(self, state):
            self.load_model(bytearray(state.cpu().numpy()))

        module.XGBoost.load_state_dict = load_state_dict

    when_imported("recbole.model.exlib_recommender.xgboost", mend)


@repair("trainer/trainer.py:1114", "xgboost will no longer take data to evaluate on by position")
def xgboost_evaluates_by_keyword():
    def mend(trainer):
        @around(trainer.XGBoostTrainer, "__init__")
        def init(upstream, self, config, model):
            upstream(self, config, model)
            library = self.xgb

            def grow(params, dtrain, num_boost_round, evals, **others):
                return library.train(params, dtrain, num_boost_round, evals=evals, **others)

            self.xgb = seen_as(library, train=grow)

    when_imported("recbole.trainer.trainer", mend)


@repair("trainer/trainer.py:996", "checkpoints of trees hold the name of a file beside them, not the trees")
def trees_in_checkpoints():
    def mend(trainer):
        @around(trainer.DecisionTreeTrainer, "_save_checkpoint")
        def _save_checkpoint(upstream, self, epoch):
            file, self.temp_best_file = self.temp_best_file, trees(self.model)
            try:
                upstream(self, epoch)
            finally:
                self.temp_best_file = file

        # Temporary files keep RecBole's name, which says nothing to xgboost of the format that it then takes.
        warnings.filterwarnings("ignore", ".*Saving model in the UBJSON format", UserWarning)
        for name in ("XGBoostTrainer", "LightGBMTrainer"):

            @around(getattr(trainer, name), "evaluate")
            def evaluate(upstream, self, eval_data, load_best_model=True, model_file=None, show_progress=False):
                if load_best_model:
                    state = load_tree(model_file or self.saved_model_file)["state_dict"]
                    self.model = type_of(self.model)(None, None)
                    self.model.load_state_dict(state)
                return upstream(self, eval_data, load_best_model=False, show_progress=show_progress)

    when_imported("recbole.trainer.trainer", mend)


@repair("trainer/trainer.py:1184", "LightGBM grows the same trees anew in each of its 300 epochs")
def lightgbm_grows_once():
    def mend(trainer):
        @around(trainer.LightGBMTrainer, "__init__")
        def init(upstream, self, config, model):
            upstream(self, config, model)
            self.epochs = self.eval_step = 1

    when_imported("recbole.trainer.trainer", mend)


def trees(booster) -> torch.Tensor:
    """The trees of a booster of xgboost or lightgbm in the library's own format, as bytes."""
    raw = booster.save_raw("ubj") if hasattr(booster, "save_raw") else booster.model_to_string().encode()
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def type_of(booster):
    """RecBole's model class for a booster of xgboost or lightgbm."""
    exlib = importlib.import_module("recbole.model.exlib_recommender")
    return exlib.XGBoost if hasattr(booster, "save_raw") else exlib.LightGBM
