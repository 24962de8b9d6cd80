"""Search spaces: the settings that a search varies, and the values that they may take.

Optuna sees numbers and texts alone: a choice that is a list or a mapping travels as its JSON text.
"""

import copy
import hashlib
import json
from dataclasses import dataclass, field, replace

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recbole_persona.errors import UserError
from recbole_persona.settings import check_values


@dataclass(frozen=True)
class Parameter:
    """One setting that a search varies.

    Attributes:
        name: the config key.
        distribution: what Optuna samples from.
        choices: Optuna's value of each choice -> the choice; None for a range.
        when: other parameters -> the values of which each must have one; else this parameter is not suggested.
        simpler: ``larger`` or ``smaller`` values make a simpler model; None where neither does.
    """

    name: str
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution
    choices: dict | None = None
    when: dict[str, list] = field(default_factory=dict)
    simpler: str | None = None

    def active(self, settings: dict) -> bool:
        """Whether the settings suggested so far fulfil the conditions."""
        return all(
            parent in settings and any(same(settings[parent], value) for value in values)
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
                if same(choice, setting):
                    return value
            raise LookupError(setting)
        known = self.distribution
        whole = isinstance(known, IntDistribution)
        if not is_number(setting) or (whole and not isinstance(setting, int)):
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
        rest = ({"when": self.when} if self.when else {}) | ({"simpler": self.simpler} if self.simpler else {})
        if self.choices is not None:
            choices = list(self.choices.values())
            return {"choices": choices, **rest} if rest else choices
        known = self.distribution
        log = {"log": True} if known.log else {}
        step = {} if known.step is None or (isinstance(known.step, int) and known.step == 1) else {"step": known.step}
        return {"low": known.low, "high": known.high, **log, **step, **rest}

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


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(choice, value) -> bool:
    return choice == value and isinstance(choice, bool) == isinstance(value, bool)
