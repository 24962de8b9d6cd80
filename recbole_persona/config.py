"""RecBole's ``Config`` with our YAML files, strings read as literals, and keys that must exist.

Precedence is RecBole's: overall.yaml < model YAML < data set YAML < config files < config dict < command line. The command
line is read by our CLI alone; ``Config`` never looks at ``sys.argv``.
"""

import ast
import copy
import importlib.util
import os
import re
from contextlib import nullcontext
from functools import cache, lru_cache
from pathlib import Path
from unittest.mock import patch

import yaml
from recbole import config as recbole_config
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, ModelType, argument_list

from recbole_persona.errors import UserError, nearest, one_sentence
from recbole_persona.registry import METRICS, TEXT, canonical_name, model_entry, registered_names
from recbole_persona.settings import INTERVALS, check_values
from recbole_persona.unused import is_read, unused_settings
from recbole_persona.upstream import replace_everywhere

_RecboleConfig = recbole_config.Config
_EVAL_BATCH_SIZE = 4096  # RecBole's default
_LISTS = ("benchmark_filename", "additional_feat_suffix")  # whose default is None
_VISIBLE_AT_START = os.environ.get("CUDA_VISIBLE_DEVICES")


def shipped(kind: str) -> Path:
    """The folder of shipped files, ``properties`` or ``dataset``: beside the package in a checkout, inside it in a wheel."""
    checkout = Path(__file__).parent.parent / kind
    if (checkout.parent / "setup.cfg").is_file() and checkout.is_dir():
        return checkout
    return Path(__file__).parent / kind


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping in which a key stands twice; YAML would take the last one without a word."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)  # as written: keys that an alias brings are overridden on purpose
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return node


@cache
def _yaml_loader():
    """RecBole's, for which 1e-3 is a number, upon ours."""
    loader = type("Loader", (UniqueKeyLoader,), {})
    with patch.object(yaml, "FullLoader", loader):  # the upstream body would change yaml's own class for everybody
        return _RecboleConfig._build_yaml_loader(None)


class Config(_RecboleConfig):
    """As RecBole's ``Config`` (its arguments, keys and precedence).

    Args:
        allow_unknown: key in ``config_dict`` or a YAML file; true lets keys pass that nobody reads.

    Raises:
        UserError: a missing or malformed YAML file, an unknown model, data set, key or metric, a value of a wrong type.

    Attributes:
        notes: what was set without being asked for, a sentence each.
    """

    def __init__(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        try:
            super().__init__(model, dataset, config_file_list, config_dict)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise UserError(f"RecBole refuses these settings: {one_sentence(error)}") from error

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole adds a data set's keys to its own lists, which would then hold them for every later Config
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return _yaml_loader()

    def _update_internal_config_dict(self, file):
        values = read_yaml(file, self.yaml_loader)
        self.internal_config_dict.update(values)
        return values

    def _convert_config_dict(self, config_dict):
        # copies: RecBole fills in defaults inside nested values, which are the caller's own
        return {key: _own(literal(value)) for key, value in config_dict.items()}

    def _load_config_files(self, file_list):
        values = {}
        for file in file_list or []:
            values.update(read_yaml(file, self.yaml_loader))
        return values

    def _load_cmd_line(self):
        return {}

    def _get_model_and_dataset(self, model, dataset):
        external = self.external_config_dict
        for key, given in (("model", model), ("dataset", dataset)):
            if given is None and external.get(key) is None:
                raise UserError(f"Name a {key}: --{key}=…, or {key}: … in a config file.")
        if isinstance(model, type):
            return class_name(model), model, dataset or external["dataset"]
        model, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        return canonical_name(model), model_class, dataset

    def _load_internal_config_dict(self, model, model_class, dataset):
        entry = model_entry(model) if isinstance(model, str) else None
        # RecBole special-cases some names (DIN); ours must not meet its files, so the upstream body sees no name of ours.
        upstream_name = "" if entry else model.rpartition(":")[2]
        super()._load_internal_config_dict(upstream_name, model_class, dataset)
        own = [entry[0]] if entry else []
        bases = [name for name in registered_names(model_class) if name not in own]
        self._add_shipped("overall", *(f"model/{name}" for name in bases))
        self.internal_config_dict.update(_own(getattr(model_class, "config_defaults", {})))
        self._add_shipped(*(f"model/{name}" for name in own), f"dataset/{dataset}")

    def _add_shipped(self, *names):
        for name in names:
            file = shipped("properties") / f"{name}.yaml"
            if file.is_file():
                self.internal_config_dict.update(read_yaml(file, self.yaml_loader))

    def _set_default_parameters(self):
        self._check_keys()
        self._read_as_declared()
        check_values(self.external_config_dict, self.internal_config_dict)
        if self.final_config_dict["eval_batch_size"] is None:
            self.final_config_dict["eval_batch_size"] = self.internal_config_dict["eval_batch_size"]
        self._complete_eval_args()
        metrics = self._check_metrics()
        kinds = [metric_types[metric.lower()] for metric in metrics]
        first = next(kind for kind in (EvaluatorType.RANKING, EvaluatorType.VALUE, TEXT) if kind in kinds)
        mode = self.final_config_dict["eval_args"].get("mode", "full")
        if first == EvaluatorType.VALUE and "full" in (mode.values() if isinstance(mode, dict) else [mode]):
            raise UserError(
                f"{metrics[kinds.index(first)]} needs labelled rows; set mode in eval_args to labeled or uni100."
            )
        # The upstream body takes metrics of one type; the others get a pass of their own (evaluate/passes.py).
        self._leave_negatives_out()
        self.final_config_dict["metrics"] = [metric for metric, kind in zip(metrics, kinds) if kind == first]
        super()._set_default_parameters()
        if self.final_config_dict.get("MODEL_INPUT_TYPE") is None and self.final_config_dict["train_neg_sample_args"]:
            raise UserError(
                f"loss_type of {self.model} is {self.final_config_dict['loss_type']!r}, for which no negatives can be "
                "drawn; set it to BPR or CE, or train_neg_sample_args to None."
            )
        self.final_config_dict["metrics"] = metrics
        self._check_passes(metrics, kinds)
        self._find_data()

    def _read_as_declared(self):
        """Lists without brackets (``NDCG,Recall``) where a list is declared, and intervals that read like lists, as text."""
        for key, value in self.external_config_dict.items():
            undeclared = key in _LISTS or key.startswith("alias_of_")
            if undeclared or isinstance(self.internal_config_dict.get(key), list):
                if isinstance(value, str) and ("," in value or undeclared):
                    value = [literal(part.strip()) for part in value.split(",") if part.strip()]
                value = list(value) if isinstance(value, tuple) else value
            elif key in INTERVALS and isinstance(value, list):  # RecBole reads [2,10] as a list, and then fails
                value = str(value)
            self.final_config_dict[key] = self.external_config_dict[key] = value
        if self.external_config_dict.get("unload_col") and "load_col" not in self.external_config_dict:
            self.final_config_dict["load_col"] = (
                None  # all but those; RecBole refuses the two together, also of its default
            )

    def _leave_negatives_out(self):
        """A sequential model's cross-entropy is over all items, and RecBole's default, one negative, refuses it.

        The note that says so is :attr:`notes`.
        """
        values, key = self.final_config_dict, "train_neg_sample_args"
        self.notes = []
        given = self.external_config_dict.get(key)
        # RecBole refuses the word, and means None by it
        if isinstance(given, dict) and str(given.get("distribution", "uniform")).lower() == "none":
            values[key] = self.external_config_dict[key] = given = None
        if values["MODEL_TYPE"] != ModelType.SEQUENTIAL or values.get("loss_type") != "CE":
            return
        if isinstance(given, dict):
            raise UserError(
                f"{self.model} with loss_type CE compares each target with all items and reads no sampled negatives; "
                f"leave {key} out, or set loss_type to BPR."
            )
        if key not in self.external_config_dict and values[key] is not None:
            self.notes.append(
                f"{self.model} with loss_type CE compares each target with all items: {key} is set to None."
            )
        values[key] = None

    @property
    def unused_keys(self) -> dict[str, str]:
        """The user's settings that nothing in this run reads, each with the reason (:func:`unused_settings`)."""
        return unused_settings(self)

    @property
    def sizes_eval_steps(self) -> bool:
        """Whether the user leaves ``eval_batch_size`` to us: full ranking then goes by the scores held.

        A model's default counts where it asks for less than RecBole's. A config out of a checkpoint of RecBole does not
        tell what was set: its number counts.
        """
        if "internal_config_dict" not in vars(self):
            return False
        given = self.external_config_dict.get("eval_batch_size") is not None
        changed = self["eval_batch_size"] != self.internal_config_dict["eval_batch_size"]
        return not (given or changed) and self["eval_batch_size"] >= _EVAL_BATCH_SIZE

    def _complete_eval_args(self):
        """Parts of ``eval_args`` that the user leaves out are those of the model and its type; RecBole takes general ones."""
        given, defaults = (each.get("eval_args") for each in (self.external_config_dict, self.internal_config_dict))
        if isinstance(given, dict) and isinstance(defaults, dict):
            self.final_config_dict["eval_args"] = {**_own(defaults), **given}

    def _init_device(self):
        """RecBole shows the process the device ``gpu_id`` alone; without that key, what the shell shows stays."""
        if "gpu_id" not in self.external_config_dict and _VISIBLE_AT_START is not None:
            self.final_config_dict["gpu_id"] = _VISIBLE_AT_START
        on_cpu = self.final_config_dict["use_gpu"] is False
        if on_cpu:
            self.final_config_dict["gpu_id"] = ""  # RecBole documents use_gpu and asks gpu_id alone
        with patch.dict(os.environ) if on_cpu else nullcontext():  # the next run of the process may want the GPU
            super()._init_device()

    def _check_metrics(self) -> list[str]:
        """The metrics as a list. Every one must exist; the error names the nearest."""
        metrics = self.final_config_dict["metrics"]
        metrics = [metrics] if isinstance(metrics, str) else metrics
        for metric in metrics:
            if str(metric).lower() not in metric_types:
                raise UserError(f"There is no metric named {metric!r}{nearest(metric, metric_types, 3)}.")
        return metrics

    def _check_passes(self, metrics, kinds):
        """The metrics must be computable: persona metrics by this model, metrics of several types by their modes."""
        for metric in metrics:
            entry = METRICS.get(metric.lower())
            if entry and "rec.personas" in entry.needs and not hasattr(self.model_class, "explain"):
                raise UserError(f"{metric} needs a model with personas, such as AMPCF; {self.model} has no explain().")
            if entry and "model.heads" in entry.needs and not hasattr(self.model_class, "head_divergence"):
                raise UserError(f"{metric} needs a model that attends to neighbours, PeaPOD; {self.model} does not.")
            if entry and entry.type == TEXT and not hasattr(self.model_class, "generate"):
                raise UserError(
                    f"{metric} needs a model that writes texts, such as PeaPOD; {self.model} has no generate()."
                )
        labelled = "labeled" in self.final_config_dict["eval_args"]["mode"].values()
        if labelled and EvaluatorType.RANKING in kinds and EvaluatorType.VALUE not in kinds:
            raise UserError(self._ranks_labelled(metrics[kinds.index(EvaluatorType.RANKING)]))
        if not {EvaluatorType.RANKING, EvaluatorType.VALUE} <= set(kinds):
            return
        mode = self.final_config_dict["value_mode"]
        if mode is not None and not re.fullmatch(r"labeled|(uni|pop)[1-9]\d*", str(mode)):
            raise UserError(f"value_mode must be labeled, uniN or popN (N a number); it is {mode!r}.")
        if self.final_config_dict["MODEL_TYPE"] == ModelType.DECISIONTREE:
            raise UserError(f"{self.model} scores labelled rows only; leave out the ranking metrics.")
        if labelled:
            raise UserError("Ranking metrics need mode full, uniN or popN in eval_args; labeled goes into value_mode.")

    def _ranks_labelled(self, metric):
        given = self.external_config_dict.get("eval_args")
        default = "" if isinstance(given, dict) and "mode" in given else f", the default of {self.model}"
        other = (
            "" if self.final_config_dict["MODEL_TYPE"] == ModelType.DECISIONTREE else "mode in eval_args to full, or "
        )
        return (
            f"{metric} ranks items, and mode in eval_args is labeled{default}, which scores labelled rows: set {other}"
            "metrics to value metrics, such as AUC and LogLoss, with valid_metric: AUC."
        )

    def _find_data(self):
        """A data set that ships with us is found by its name when the user's ``data_path`` has none of that name."""
        path = Path(self.final_config_dict["data_path"])
        own = shipped("dataset") / self.dataset
        if not path.is_dir() and own.is_dir():
            self.final_config_dict["data_path"] = str(own)
        elif not path.is_dir():
            raise UserError(
                f"There is no data set {self.dataset!r} in {path.parent}; shipped are ml-100k and "
                f"{', '.join(sorted(p.name for p in shipped('dataset').iterdir() if p.is_dir()))}, "
                "others are made with `recbole-persona convert`."
            )

    def _check_keys(self):
        allowed = self.external_config_dict.get("allow_unknown", self.internal_config_dict.get("allow_unknown"))
        for key in () if allowed else self.external_config_dict:
            if key not in self._declared_keys() and not is_read(key, self.model_class):
                near = nearest(key, self._declared_keys())
                raise UserError(
                    f"There is no config key {key!r}{near} (docs/config.md; --allow_unknown lets unknown keys pass)."
                )

    def _declared_keys(self):
        """Keys of any YAML file or argument list, and those that the model declares: registered, or in its class."""
        entry = model_entry(self.model)
        return known_keys().union(entry[1].keys if entry else (), getattr(self.model_class, "config_defaults", ()))


def literal(value):
    """A string as the Python literal it spells, else as it is; other values unchanged. Nothing is evaluated."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value


_BARE_WORD = re.compile(r"[^\s\[\]{}(),:'\"](?:[^\[\]{}(),:'\"]*[^\s\[\]{}(),:'\"])?")


def typed(text: str):
    """A value from a command line: as :func:`literal`, also where the shell has taken the quotes: ``[NDCG,Recall]``."""
    value = literal(text)
    if value is not text or not re.fullmatch(r"\[.*\]|\{.*\}", text, re.DOTALL):
        return value
    if re.search(r"\binf\b", text):  # an interval
        return text
    quoted = literal(_BARE_WORD.sub(lambda match: repr(literal(match.group())), text))
    return text if isinstance(quoted, str) else quoted


def _own(value):
    """A copy of a nested value; anything else as it is."""
    return copy.deepcopy(value) if isinstance(value, (dict, list)) else value


def class_name(model_class: type) -> str:
    """The name by which a run finds a class again: bare if it is ours or RecBole's, else ``package.module:Class``."""
    path = f"{model_class.__module__}:{model_class.__qualname__}"
    entry = model_entry(model_class.__name__)
    known = entry[1].path == path if entry else model_class.__module__.startswith("recbole.model.")
    return model_class.__name__ if known else path


@lru_cache(maxsize=128)
def _parsed(text, loader):
    """What a YAML text says: a process makes many configs, of much the same files, and YAML is slow to read."""
    return yaml.load(text, Loader=loader)


def read_yaml(file, loader=UniqueKeyLoader) -> dict:
    """The mapping in a YAML file; UserError when it is missing, malformed, no mapping, or has a key twice."""
    try:
        values = copy.deepcopy(_parsed(Path(file).read_text(encoding="utf-8"), loader))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no config file {file}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file in UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{where} is not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{file} holds no `key: value` lines.")
    return values or {}


@cache
def known_keys() -> frozenset[str]:
    """Keys that stand in a YAML file or an argument list, of RecBole or ours."""
    keys = {"model", "dataset", "config_files"}
    for names in vars(argument_list).values():
        keys.update(names if isinstance(names, list) else ())
    folders = [Path(importlib.util.find_spec("recbole").origin).parent / "properties", shipped("properties")]
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            if "space" not in file.parts:
                keys.update(re.findall(r"^([A-Za-z_]\w*)\s*:", file.read_text(encoding="utf-8"), re.M))
    return frozenset(keys)


def install() -> None:
    """Let everybody who imports RecBole's ``Config`` get ours."""
    replace_everywhere(_RecboleConfig, Config)
