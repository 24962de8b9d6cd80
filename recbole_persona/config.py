"""RecBole's ``Config`` with our YAML files, strings read as literals, and keys that must exist.

Precedence is RecBole's: overall.yaml < model YAML < data set YAML < config files < config dict < command line. The command
line is read by our CLI alone; ``Config`` never looks at ``sys.argv``.
"""

import ast
import difflib
import importlib.util
import inspect
import re
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import yaml
from recbole import config as recbole_config
from recbole.evaluator import metric_types
from recbole.utils import argument_list

from recbole_persona.errors import UserError
from recbole_persona.registry import canonical_name, model_entry
from recbole_persona.upstream import replace_everywhere

_RecboleConfig = recbole_config.Config


def shipped(kind: str) -> Path:
    """The folder of shipped files, ``properties`` or ``dataset``: beside the package in a checkout, inside it in a wheel."""
    checkout = Path(__file__).parent.parent / kind
    if (checkout.parent / "setup.cfg").is_file() and checkout.is_dir():
        return checkout
    return Path(str(files(f"recbole_persona.{kind}")))


class Config(_RecboleConfig):
    """As RecBole's ``Config`` (its arguments, keys and precedence).

    Args:
        allow_unknown: key in ``config_dict`` or a YAML file; true lets keys pass that nobody reads.

    Raises:
        UserError: a missing or malformed YAML file, an unknown model, data set, key or metric.
    """

    def _build_yaml_loader(self):
        loader = type("Loader", (yaml.SafeLoader,), {})
        with patch.object(yaml, "FullLoader", loader):  # the upstream body would change yaml's own class for everybody
            return super()._build_yaml_loader()

    def _convert_config_dict(self, config_dict):
        return {key: literal(value) for key, value in config_dict.items()}

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
        model, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        return canonical_name(model), model_class, dataset

    def _load_internal_config_dict(self, model, model_class, dataset):
        entry = model_entry(model) if isinstance(model, str) else None
        # RecBole special-cases some names (DIN); ours must not meet its files, so the upstream body sees no name of ours.
        upstream_name = "" if entry else model.removeprefix("recbole:")
        super()._load_internal_config_dict(upstream_name, model_class, dataset)
        overlays = ["overall"] + ([f"model/{entry[0]}"] if entry else []) + [f"dataset/{dataset}"]
        for name in overlays:
            file = shipped("properties") / f"{name}.yaml"
            if file.is_file():
                self.internal_config_dict.update(read_yaml(file, self.yaml_loader))

    def _set_default_parameters(self):
        self._check_metrics()
        super()._set_default_parameters()
        self._find_data()
        self._check_keys()

    def _check_metrics(self):
        """Every metric must exist; the error names the nearest."""
        metrics = self.final_config_dict["metrics"]
        metrics = [metrics] if isinstance(metrics, str) else metrics
        for metric in metrics:
            if str(metric).lower() not in metric_types:
                near = difflib.get_close_matches(str(metric).lower(), metric_types, n=3, cutoff=0.4)
                raise UserError(f"There is no metric named {metric!r}; near it are {', '.join(near) or 'none'}.")

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
        if self.final_config_dict.get("allow_unknown"):
            return
        for key in self.external_config_dict:
            if key not in known_keys() and not is_read(key, self.model_class):
                near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
                raise UserError(
                    f"There is no config key {key!r}; the nearest is {near[0]!r} (--allow_unknown lets unknown keys pass)."
                )


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


def read_yaml(file, loader=yaml.SafeLoader) -> dict:
    """The mapping in a YAML file; UserError when it is missing, malformed or no mapping."""
    try:
        values = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=loader)
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


def is_read(key: str, model_class) -> bool:
    """Whether some code reads ``key`` from a config: RecBole's, ours, the model's own module, or the running script."""
    pattern = re.compile(rf"""(?:\[|get\(|in_config\()\s*f?["']{re.escape(key)}["']""")
    modules = [inspect.getmodule(model_class), sys.modules.get("__main__")]
    own = [Path(module.__file__) for module in modules if getattr(module, "__file__", None)]
    return any(pattern.search(text) for text in (*_sources(), *(p.read_text(encoding="utf-8") for p in own if p.is_file())))


@cache
def _sources() -> tuple[str, ...]:
    folders = [Path(importlib.util.find_spec(name).origin).parent for name in ("recbole", "recbole_persona")]
    return tuple(file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("*.py"))


def install() -> None:
    """Let everybody who imports RecBole's ``Config`` get ours."""
    replace_everywhere(_RecboleConfig, Config)
