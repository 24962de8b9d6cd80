"""Search spaces: the settings that a search varies, and the values that they may take.

A space stands in a YAML file (docs/space.md) or in one of RecBole's hyper files; neither is ever evaluated as code.
Optuna sees numbers and texts alone: a choice that is a list or a mapping travels as its JSON text.
"""

import ast
import copy
import difflib
import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from recbole.utils import argument_list

from recbole_persona.config import Config, class_name, is_read, known_keys, literal, read_yaml, shipped
from recbole_persona.errors import UserError, one_sentence
from recbole_persona.registry import canonical_name, get_model, model_entry
from recbole_persona.settings import check_values

_ATTRIBUTES = ("low", "high", "log", "step", "choices", "when")
# Trials that differ in these could not be compared.
_FIXED = {"model", "dataset", "data_path", "seed", "split_seed", "run_dir", "checkpoint_dir", "value_mode"}
_FIXED |= set(argument_list.evaluation_arguments) - {"eval_batch_size"}
_LARGEST = 2**53  # whole numbers up to here are exact in a database that stores floats
_HYPER_FORMS = {
    "choice": "a list such as [0.01,0.001]",
    "uniform": "low,high",
    "quniform": "low,high,q",
    "loguniform": "low,high, the logarithms of the ends",
}


@dataclass(frozen=True)
class Parameter:
    """One setting that a search varies.

    Attributes:
        name: the config key.
        distribution: what Optuna samples from.
        choices: Optuna's value of each choice -> the choice; None for a range.
        when: other parameters -> the values of which each must have one; else this parameter is not suggested.
    """

    name: str
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution
    choices: dict | None = None
    when: dict[str, list] = field(default_factory=dict)

    def active(self, settings: dict) -> bool:
        """Whether the settings suggested so far fulfil the conditions."""
        return all(
            parent in settings and any(_same(settings[parent], value) for value in values)
            for parent, values in self.when.items()
        )

    def suggest(self, trial):
        """Optuna's value for this trial, of which ``decode`` makes the setting."""
        known = self.distribution
        if self.choices is not None:
            return trial.suggest_categorical(self.name, known.choices)
        suggest = trial.suggest_int if isinstance(known, IntDistribution) else trial.suggest_float
        return suggest(self.name, known.low, known.high, step=known.step, log=known.log)

    def encode(self, setting):
        """Optuna's value of a setting; LookupError when the setting lies outside."""
        if self.choices is not None:
            for value, choice in self.choices.items():
                if _same(choice, setting):
                    return value
            raise LookupError(setting)
        known = self.distribution
        whole = isinstance(known, IntDistribution)
        if not _is_number(setting) or (whole and not isinstance(setting, int)):
            raise LookupError(setting)
        steps = (setting - known.low) / known.step if known.step else 0
        if not known.low <= setting <= known.high or abs(steps - round(steps)) > 1e-8:
            raise LookupError(setting)
        return setting if whole else float(setting)

    def decode(self, value):
        """The setting for Optuna's value; KeyError when it is no choice."""
        if self.choices is not None:
            return copy.deepcopy(self.choices[value])
        if isinstance(self.distribution, FloatDistribution) and self.distribution.step:
            return float(f"{value:.12g}")  # .1 + 2 * .1 is written .3
        return value

    def plain(self):
        """The parameter as a space file has it."""
        when = {"when": self.when} if self.when else {}
        if self.choices is not None:
            choices = list(self.choices.values())
            return {"choices": choices, **when} if when else choices
        known = self.distribution
        log = {"log": True} if known.log else {}
        step = {} if known.step is None or (isinstance(known.step, int) and known.step == 1) else {"step": known.step}
        return {"low": known.low, "high": known.high, **log, **step, **when}

    def __str__(self):
        if self.choices is not None:
            text = ", ".join(str(choice) for choice in self.choices.values())
        else:
            form = self.plain()
            step = f" in steps of {form['step']:.6g}" if "step" in form else ""
            text = f"{form['low']:.6g} to {form['high']:.6g}{step}{' (log)' if 'log' in form else ''}"
        conditions = [f"{parent} is {' or '.join(map(str, values))}" for parent, values in self.when.items()]
        return text + (f", when {' and '.join(conditions)}" if conditions else "")


@dataclass(frozen=True)
class Space:
    """The parameters of a search by name; every parameter stands behind those that its conditions name."""

    parameters: dict[str, Parameter]

    def suggest(self, trial) -> dict:
        """Settings for one trial; parameters whose conditions are not fulfilled are left out."""
        settings = {}
        for name, parameter in self.parameters.items():
            if parameter.active(settings):
                settings[name] = parameter.decode(parameter.suggest(trial))
        return settings

    def decode(self, params: dict) -> dict:
        """The settings of a finished trial from its ``params``; UserError when they are of another space."""
        try:
            return {name: self.parameters[name].decode(value) for name, value in params.items()}
        except KeyError as error:
            raise UserError(f"The trial was made with another search space: {error} is not in this one.") from None

    def without(self, settings: dict) -> "Space":
        """The space that is left when ``settings`` fix some of its parameters; UserError when none is left."""
        left = {}
        for name, parameter in self.parameters.items():
            fixed = {parent: values for parent, values in parameter.when.items() if parent in settings}
            open_ = {parent: values for parent, values in parameter.when.items() if parent not in settings}
            if name not in settings and replace(parameter, when=fixed).active(settings):
                left[name] = replace(parameter, when=open_)
        if not left:
            raise UserError("The settings fix every parameter of the search space; leave those out that it shall vary.")
        return Space(left)

    def defaults(self, config) -> tuple[dict, list[str]]:
        """Where a search begins, as ``study.enqueue_trial`` takes it, and the names whose default lies outside.

        Raises:
            UserError: the config refuses a choice or an end of a range.
        """
        self._check_values(config)
        written = {**config.internal_config_dict, **config.external_config_dict}  # before RecBole's additions
        params, outside, settings = {}, [], {}
        for name, parameter in self.parameters.items():
            if not parameter.active(settings):
                continue
            try:
                params[name] = parameter.encode(written.get(name))
                settings[name] = parameter.decode(params[name])
            except LookupError:
                outside.append(name)
        return params, outside

    def _check_values(self, config):
        for name, parameter in self.parameters.items():
            known = parameter.distribution
            ends = parameter.choices.values() if parameter.choices is not None else (known.low, known.high)
            for value in ends:
                try:
                    check_values({**config.external_config_dict, name: value}, config.internal_config_dict)
                except UserError as error:
                    raise UserError(f"The search space does not fit the settings: {error}") from None

    def plain(self) -> dict:
        """The space as a mapping that ``read_space`` takes, of JSON's types alone."""
        return {name: parameter.plain() for name, parameter in self.parameters.items()}

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over the parameters, whatever the order in which they are written."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()[:16]


def read_space(source, model) -> Space:
    """The search space for a model.

    Args:
        source: path of a YAML file (``.yaml``, ``.yml``) or of a RecBole hyper file (any other ending), a mapping as the YAML
            file has it, or None for the space that ships for the model.
        model: its name or class.

    Raises:
        UserError: no such file; a key that no config knows; a misspelt, missing or contradictory attribute; an empty range.
    """
    if source is None:
        source = _shipped_space(model)
    forms = source if isinstance(source, Mapping) else _read_file(Path(source))
    if not forms:
        raise UserError("The search space names no parameter; one is written learning_rate: [0.01, 0.001].")
    _check_names(forms, model)
    parameters = {name: _parameter(name, form) for name, form in forms.items()}
    for name, form in forms.items():
        if isinstance(form, Mapping) and "when" in form:
            parameters[name] = replace(parameters[name], when=_conditions(name, form["when"], parameters))
    return Space(_ordered(parameters))


def _shipped_space(model) -> Path:
    folder = shipped("properties") / "space"
    name = class_name(model) if isinstance(model, type) else canonical_name(model).removeprefix("recbole:")
    file = folder / f"{name}.yaml"
    if not file.is_file():
        get_model(model)  # a misspelt name is told as such
        raise UserError(
            f"No search space ships for {name}; write one and name it with --space. There are spaces for "
            f"{', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}."
        )
    return file


# --- files ------------------------------------------------------------------------------------------------------------


def _read_file(path) -> dict:
    """The parameters of a file, in the form that they have in YAML."""
    try:
        if not path.is_file():
            raise UserError(f"There is no search space {path}.")
        if path.suffix.lower() in (".yaml", ".yml"):
            return read_yaml(path, _loader())
        return _read_hyper(path)
    except UserError:
        raise
    # PyYAML's own errors are read_yaml's; these it lets through for values such as !!int x and [[[[…
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError) as error:
        raise UserError(f"The search space {path} cannot be read: {one_sentence(error)}") from None


def _loader():
    """The loader of config files, for which 1e-5 is a number; it refuses a key that stands twice."""
    config_loader = Config.__new__(Config)._build_yaml_loader()

    class Loader(config_loader):
        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep)

    return Loader


def _read_hyper(path) -> dict:
    """A line of RecBole's hyper files is ``name form values``; the values mean what they mean to hyperopt."""
    forms = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, form, values = [*line.split(None, 2), "", ""][:3]
        where = f"{path}, line {number}:"
        if form not in _HYPER_FORMS:
            raise UserError(
                f"{where} after a name stands choice, uniform, quniform or loguniform (YAML ends in .yaml)."
            )
        if name in forms:
            raise UserError(f"{where} {name} stands twice.")
        try:
            forms[name] = _hyper_form(form, values.strip())
        except (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError):
            raise UserError(f"{where} {form} takes {_HYPER_FORMS[form]}; it is {reprlib.repr(values)}.") from None
    return forms


def _hyper_form(form, values):
    """The YAML form; ValueError and its kin when ``values`` are not what the form takes."""
    if form == "choice":
        choices = ast.literal_eval(values)
        if not isinstance(choices, (list, tuple)):
            raise ValueError("no list")
        return [literal(choice) for choice in choices]  # RecBole's users write lists as '[64,32]'
    low, high, *q = (float(value) for value in values.split(","))
    if len(q) != (form == "quniform") or not all(math.isfinite(end) for end in (low, high)):
        raise ValueError("not as many numbers")
    if form == "uniform":
        return {"low": low, "high": high}
    if form == "loguniform":
        return {"low": math.exp(low), "high": math.exp(high), "log": True}
    grid = Decimal(str(q[0]))
    ends = [round(Decimal(str(end)) / grid) * grid for end in (low, high)]  # hyperopt: round(x / q) * q
    number = int if grid == int(grid) else float
    return {"low": number(ends[0]), "high": number(ends[1]), "step": number(grid)}


# --- parameters -------------------------------------------------------------------------------------------------------


def _fault(name, text) -> UserError:
    return UserError(f"{name} in the search space {text}.")


def _nearest(name, names) -> str:
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    return f"; the nearest is {near[0]!r}" if near else ""


def _check_names(names, model):
    model_class = get_model(model) if isinstance(model, str) else model
    entry = model_entry(model if isinstance(model, str) else class_name(model))
    declared = known_keys().union(entry[1].keys if entry else (), getattr(model_class, "config_defaults", ()))
    for name in names:
        if not isinstance(name, str):
            raise _fault(repr(name), "is no name of a setting")
        if name in _FIXED:
            raise _fault(name, "would make trials that cannot be compared; set it for the whole search")
        if name in declared or is_read(name, model_class):
            continue
        if name.partition(".")[0] in declared:
            raise _fault(name, "lies within a setting; its choices must be whole mappings, {…} and {…}")
        raise _fault(repr(name), f"is no config key{_nearest(name, declared)}")


def _parameter(name, form) -> Parameter:
    """The parameter without its conditions."""
    if isinstance(form, (list, tuple)):
        return _choice(name, form)
    if not isinstance(form, Mapping):
        example = "a list of choices, or have two ends as {low: 1, high: 4}"
        raise _fault(name, f"must be {example}; it is {reprlib.repr(form)}")
    for attribute in form:
        if attribute not in _ATTRIBUTES:
            raise _fault(name, f"has no attribute {attribute!r}{_nearest(attribute, _ATTRIBUTES)}")
    if "choices" not in form:
        return _range(name, form)
    if "low" in form or "high" in form or "log" in form or "step" in form:
        raise _fault(name, "is a list of choices and a range at once; leave out one of them")
    if not isinstance(form["choices"], (list, tuple)):
        raise _fault(name, f"must have a list of choices; it is {reprlib.repr(form['choices'])}")
    return _choice(name, form["choices"])


def _choice(name, choices) -> Parameter:
    if len(choices) < 2:
        number = "one choice" if choices else "no choices"
        raise _fault(name, f"has {number}; write two or more, or set it for the whole search")
    try:
        choices = [_plain(choice) for choice in choices]
        texts = [json.dumps(choice, sort_keys=True) for choice in choices]
    except (TypeError, ValueError, RecursionError):
        kinds = "texts, finite numbers, True, False, None, and lists and mappings of these"
        raise _fault(name, f"may have as choices {kinds}; they are {reprlib.repr(choices)}") from None
    for text in texts:
        if texts.count(text) > 1:
            raise _fault(name, f"has the choice {text} twice")
    values = [text if isinstance(choice, (list, dict)) else choice for choice, text in zip(choices, texts)]
    if len(set(values)) < len(values):  # 1, 1.0 and True are one to Optuna, and so are [1] and the text "[1]"
        values = texts
    return Parameter(name, CategoricalDistribution(values), dict(zip(values, choices)))


def _plain(choice):
    """A copy of JSON's types alone; TypeError when there is none that decodes to the same."""
    if isinstance(choice, (list, tuple)):
        return [_plain(part) for part in choice]
    if isinstance(choice, Mapping) and all(isinstance(key, str) for key in choice):
        return {key: _plain(value) for key, value in choice.items()}
    if choice is None or isinstance(choice, (str, bool, int)) or (isinstance(choice, float) and math.isfinite(choice)):
        return choice
    raise TypeError(choice)


def _range(name, form) -> Parameter:
    for attribute in ("low", "high", "step"):
        value = form.get(attribute)
        if value is None and attribute != "step":
            raise _fault(name, f"has no {attribute}; write {{low: …, high: …}} or a list of choices")
        if value is not None and not (_is_number(value) and abs(value) <= _LARGEST):  # false for nan
            raise _fault(name, f"must have as {attribute} a number, at most 2**53; it is {reprlib.repr(value)}")
    low, high, step, log = form["low"], form["high"], form.get("step"), form.get("log", False)
    if not isinstance(log, bool):
        raise _fault(name, f"must have as log true or false; it is {reprlib.repr(log)}")
    if low >= high:
        raise _fault(name, f"has an empty range: low is {low} and high is {high}")
    if log and low <= 0:
        raise _fault(name, f"needs a low above 0 for log; it is {low}")
    if log and step is not None:
        raise _fault(name, "has log and step; leave out one of them")
    whole = all(isinstance(value, int) for value in (low, high, 1 if step is None else step))
    number = int if whole else float
    if step is not None:
        if step <= 0 or (high - low) / step > _LARGEST or Decimal(str(step)) > Decimal(str(high)) - Decimal(str(low)):
            raise _fault(name, f"has a step of {step}, by which nobody comes from {low} to {high}")
        first, grid = Decimal(str(low)), Decimal(str(step))
        high = first + (Decimal(str(high)) - first) // grid * grid  # Optuna would do so with a warning
        step = number(step)
    if whole:
        return Parameter(name, IntDistribution(low, int(high), log=log, step=step or 1))
    return Parameter(name, FloatDistribution(float(low), float(high), log=log, step=step))


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(choice, value) -> bool:
    return choice == value and isinstance(choice, bool) == isinstance(value, bool)


# --- conditions -------------------------------------------------------------------------------------------------------


def _conditions(name, when, parameters) -> dict[str, list]:
    """The values, as lists, that other parameters must have; every one must be a value that the other can have."""
    if not isinstance(when, Mapping) or not when:
        raise _fault(name, f"must have as when a condition such as {{attention: learned}}; it is {reprlib.repr(when)}")
    found = {}
    for parent, wanted in when.items():
        if parent not in parameters:
            near = _nearest(parent, [other for other in parameters if other != name])
            raise _fault(name, f"waits for {parent!r}, which is not in the space{near}")
        known = parameters[parent]
        if isinstance(known.distribution, FloatDistribution):
            raise _fault(name, f"waits for {parent}, which has no single values; wait for choices or whole numbers")
        several = isinstance(wanted, (list, tuple)) and not (known.choices and wanted in known.choices.values())
        found[parent] = []
        for value in wanted if several else [wanted]:
            try:
                found[parent].append(known.decode(known.encode(value)))
            except LookupError:
                raise _fault(name, f"waits for {parent} to be {reprlib.repr(value)}, which it never is") from None
        if not found[parent]:
            raise _fault(name, f"waits for {parent} to be one of an empty list")
    return found


def _ordered(parameters) -> dict[str, Parameter]:
    """Each parameter behind those that it waits for; UserError when some wait for each other."""
    ordered, waiting = {}, dict(parameters)
    while waiting:
        ready = [name for name, known in waiting.items() if all(parent in ordered for parent in known.when)]
        if not ready:
            raise _fault(" and ".join(waiting), "wait for each other")
        ordered.update((name, waiting.pop(name)) for name in ready)
    return ordered
