"""Search spaces read from a YAML file (docs/space.md) or one of RecBole's hyper files; neither is evaluated as code."""

import ast
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from recbole.utils import argument_list

from recbole_persona.config import Config, class_name, known_keys, literal, read_yaml, shipped
from recbole_persona.errors import UserError, nearest, one_sentence
from recbole_persona.registry import canonical_name, get_model, model_entry
from recbole_persona.search.space import Parameter, Space, is_number
from recbole_persona.unused import is_read

_ATTRIBUTES = ("low", "high", "log", "step", "choices", "when", "simpler")
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
        if isinstance(form, Mapping) and "simpler" in form:
            parameters[name] = replace(parameters[name], simpler=_simpler(parameters[name], form["simpler"]))
    return Space(_ordered(parameters))


def _shipped_space(model) -> Path:
    folder = shipped("properties") / "space"
    name = class_name(model) if isinstance(model, type) else canonical_name(model)
    if name.startswith(("recbole:", "recbole.model.")):  # RecBole's, where the bare name is ours
        name = f"recbole-{name.rpartition(':')[2]}"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        if isinstance(model, str):
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
            return read_yaml(path, Config.__new__(Config)._build_yaml_loader())  # for which 1e-5 is a number
        return _read_hyper(path)
    except UserError:
        raise
    # PyYAML's own errors are read_yaml's; these it lets through for values such as !!int x and [[[[…
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError) as error:
        raise UserError(f"The search space {path} cannot be read: {one_sentence(error)}") from None


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
        raise _fault(repr(name), f"is no config key{nearest(name, declared)}")


def _parameter(name, form) -> Parameter:
    """The parameter without its conditions."""
    if isinstance(form, (list, tuple)):
        return _choice(name, form)
    if not isinstance(form, Mapping):
        example = "a list of choices, or have two ends as {low: 1, high: 4}"
        raise _fault(name, f"must be {example}; it is {reprlib.repr(form)}")
    for attribute in form:
        if attribute not in _ATTRIBUTES:
            raise _fault(name, f"has no attribute {attribute!r}{nearest(attribute, _ATTRIBUTES)}")
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


def _simpler(parameter, direction) -> str:
    """Which end of the parameter makes a simpler model; it must have numbers as values."""
    if direction not in ("larger", "smaller"):
        raise _fault(parameter.name, f"must have as simpler larger or smaller; it is {reprlib.repr(direction)}")
    if parameter.choices is not None and not all(map(is_number, parameter.choices.values())):
        raise _fault(parameter.name, "has simpler, and choices that are not all numbers")
    return direction


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
        if value is not None and not (is_number(value) and abs(value) <= _LARGEST):  # false for nan
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


# --- conditions -------------------------------------------------------------------------------------------------------


def _conditions(name, when, parameters) -> dict[str, list]:
    """The values, as lists, that other parameters must have; every one must be a value that the other can have."""
    if not isinstance(when, Mapping) or not when:
        raise _fault(name, f"must have as when a condition such as {{attention: learned}}; it is {reprlib.repr(when)}")
    found = {}
    for parent, wanted in when.items():
        if parent not in parameters:
            near = nearest(parent, [other for other in parameters if other != name])
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
