"""Names of models and metrics -> module paths. Nothing is imported before it is used.

A bare name is ours first, then RecBole's; ``recbole:DIN`` is RecBole's in any case; ``package.module:Class`` is anybody's.
"""

import ast
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from recbole.data import utils as data_utils
from recbole.evaluator import collector
from recbole.utils import enum_type
from recbole.utils import utils as recbole_utils

from recbole_persona.errors import UserError, nearest
from recbole_persona.upstream import replace_everywhere

_upstream_get_model = recbole_utils.get_model
_upstream_get_trainer = recbole_utils.get_trainer
_upstream_get_dataloader = data_utils.get_dataloader
TEXT = "TEXT"  # type of the metrics of generated texts, beside those of RecBole's EvaluatorType, which is closed
_EVALUATION_LOADERS = {
    "FullSortEvalDataLoader": "recbole_persona.evaluate.full_ranking:FullSortLoader",
    "NegSampleEvalDataLoader": "recbole_persona.evaluate.negatives:SameNegatives",
}


@dataclass(frozen=True)
class ModelEntry:
    """Where a model stands, and what must be known of it before it is imported.

    Attributes:
        path: ``package.module:Class``.
        paper: authors, title, venue.
        aliases: other spellings, in lower case.
        keys: config keys that neither the model's YAML nor its code names literally.
        train_loader: ``package.module:Class`` of the loader of its training data; RecBole's own if None.
    """

    path: str
    paper: str
    aliases: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    train_loader: str | None = None


@dataclass(frozen=True)
class MetricEntry:
    """Where a metric stands, and what RecBole's ``Config`` asks of it before it is imported.

    Attributes:
        path: ``package.module:Class`` of a RecBole ``AbstractMetric``.
        type: ``RANKING``, ``VALUE`` or ``TEXT``.
        needs: what the collector must gather, RecBole's names or ours.
        smaller: whether a smaller value is the better one.
    """

    path: str
    type: str
    needs: tuple[str, ...]
    smaller: bool = False


MODELS: dict[str, ModelEntry] = {}
METRICS: dict[str, MetricEntry] = {}


def register_model(name, path, *, paper, aliases=(), keys=(), train_loader=None) -> None:
    """Enter a model; raises ValueError when the name or an alias is taken or ``path`` is no ``module:Class``."""
    taken = {known.lower() for known in MODELS} | {alias for entry in MODELS.values() for alias in entry.aliases}
    for spelling in (name.lower(), *aliases):
        if spelling != spelling.lower() or spelling in taken:
            raise ValueError(f"the name {spelling!r} is taken, or an alias not in lower case")
    if path.count(":") != 1:
        raise ValueError(f"the path {path!r} is not of the form package.module:Class")
    MODELS[name] = ModelEntry(path, paper, tuple(aliases), tuple(keys), train_loader)


def register_metric(name, path, *, type, needs, smaller=False) -> None:
    """Enter a metric here and in RecBole's registers; raises ValueError when its name is taken or its type unknown."""
    from recbole.evaluator import register

    name = name.lower()
    if name in register.metrics_dict:
        raise ValueError(f"a metric named {name!r} is registered already")
    METRICS[name] = MetricEntry(path, type, tuple(needs), smaller)
    register.metric_types[name] = TEXT if type == TEXT else enum_type.EvaluatorType[type]
    register.metric_information[name] = list(needs)
    register.metrics_dict[name] = lambda config: import_path(path)(config)
    if smaller:
        register.smaller_metrics.append(name)


def registered_names(model_class) -> list[str]:
    """The names under which a class and its bases are entered here, the furthest base first."""
    names = {entry.path: name for name, entry in MODELS.items()}
    paths = (f"{base.__module__}:{base.__qualname__}" for base in reversed(model_class.__mro__))
    return [names[path] for path in paths if path in names]


def import_path(path: str):
    """The object at ``package.module:Name`` or ``folder/file.py:Name``.

    Raises:
        UserError: there is no such module, file or name.
    """
    module, _, name = path.rpartition(":")
    try:
        return getattr(_file_module(module) if module.endswith(".py") else importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            file = f"folder/{module.rpartition('.')[2]}.py"
            raise UserError(
                f"There is no module {error.name!r}, which {path!r} names: not in {Path.cwd()}, on PYTHONPATH or among the "
                f"installed packages; a file elsewhere is named by its path, as --model={file}:{name}."
            ) from None
        raise
    except AttributeError:
        raise UserError(f"The module {module!r} has no {name!r}.") from None


def _file_module(file: str):
    """The module that a file holds; one and the same object for every spelling of its path."""
    path = Path(file).expanduser().resolve()
    if str(path) not in sys.modules:
        if not path.is_file():
            raise UserError(f"There is no file {path}, which is to hold the model.")
        spec = importlib.util.spec_from_file_location(str(path), path)
        sys.modules[str(path)] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[str(path)]
            raise
    return sys.modules[str(path)]


@cache
def recbole_model_names() -> tuple[str, ...]:
    """The model classes that RecBole 1.2.1 ships, read from its packages without importing them."""
    names = []
    folder = Path(importlib.util.find_spec("recbole.model").origin).parent
    for package in sorted(folder.glob("*_recommender")):
        for node in ast.parse((package / "__init__.py").read_text()).body:
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    return tuple(names)


def model_entry(name: str) -> tuple[str, ModelEntry] | None:
    """Our entry for a bare name or an alias in any case, as ``(name, entry)``; None when the name is not ours."""
    for known, entry in MODELS.items():
        if name.lower() in (known.lower(), *entry.aliases):
            return known, entry
    return None


def get_model(model_name: str):
    """The model class of a name: ours first, then RecBole's; stands in for ``recbole.utils.get_model``.

    Raises:
        UserError: nobody has a model of that name; the text lists the nearest names.
    """
    prefix, _, rest = model_name.partition(":")
    if rest and prefix != "recbole":
        model_class = import_path(model_name)
        if not (isinstance(model_class, type) and isinstance(getattr(model_class, "type", None), enum_type.ModelType)):
            raise UserError(f"{model_name} is no model class of RecBole's kind (a subclass of a …Recommender).")
        return model_class
    if not rest and (found := model_entry(model_name)):
        return import_path(found[1].path)
    bare = rest or model_name
    names = recbole_model_names()
    exact = {name.lower(): name for name in names}.get(bare.lower())
    if exact is None:
        raise UserError(f"There is no model named {model_name!r}{nearest(bare, (*names, *MODELS), 3)}.")
    try:
        return _upstream_get_model(exact)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{exact} needs the module {error.name!r}; recbole-persona doctor says how to install it."
        ) from error


def canonical_name(model_name: str) -> str:
    """The name under which RecBole's own look-ups find the model: aliases and ``recbole:`` resolved where that is unambiguous."""
    if found := model_entry(model_name):
        return found[0]
    bare = model_name.removeprefix("recbole:")
    known = {name.lower(): name for name in recbole_model_names()}
    if bare.lower() in known and model_entry(bare) is None:
        return known[bare.lower()]
    return model_name


def get_dataloader(config, phase: str):
    """The loader class for a phase: ours for evaluation, for training what the model's entry names. Stands in for RecBole's."""
    found = model_entry(config["model"])
    if phase == "train" and found and found[1].train_loader:
        return import_path(found[1].train_loader)
    if phase == "train" and import_path("recbole_persona.unused:is_computed")(config):
        return import_path("recbole_persona.data.sampling:ComputedLoader")
    upstream = _upstream_get_dataloader(config, phase)
    return import_path(_EVALUATION_LOADERS[upstream.__name__]) if upstream.__name__ in _EVALUATION_LOADERS else upstream


def get_trainer(model_type, model_name: str):
    """RecBole's trainer for the model, with safe checkpoints and exact resuming; stands in for RecBole's function."""
    bare = model_name.rpartition(":")[2]
    return import_path("recbole_persona.train.trainer:resumable")(_upstream_get_trainer(model_type, bare))


def install() -> None:
    """Let RecBole find our models, metrics, trainers and loaders wherever it looks for its own."""
    replace_everywhere(_upstream_get_model, get_model)
    replace_everywhere(_upstream_get_trainer, get_trainer)
    replace_everywhere(_upstream_get_dataloader, get_dataloader)
    replace_everywhere(data_utils.create_samplers, import_path("recbole_persona.evaluate.protocols:create_samplers"))
    import_path("recbole_persona.data.reading:install")()
    import_path("recbole_persona.data.texts:install")()
    import_path("recbole_persona.data.ids:install")()
    import_path("recbole_persona.data.held_out_users:install")()
    import_path("recbole_persona.data.rows:install")()
    import_path("recbole_persona.data.grouped_splits:install")()
    import_path("recbole_persona.data.used_ids:install")()
    import_path("recbole_persona.data.histories:install")()
    import_path("recbole_persona.data.latest_rows:install")()
    import_path("recbole_persona.data.graph_items:install")()
    import_path("recbole_persona.data.missing_parts:install")()
    replace_everywhere(collector.Collector, import_path("recbole_persona.evaluate.collector:Collector"))


register_model(
    "AMPCF",
    "recbole_persona.models.ampcf:AMPCF",
    paper="Barkan et al., Explainable Recommendations via Attentive Multi-Persona Collaborative Filtering, RecSys 2020",
    aliases=("amp-cf", "amp_cf"),
    train_loader="recbole_persona.data.sampling:SampledTrainLoader",
)
register_model(
    "UserEncoder",
    "recbole_persona.models.user_encoder:UserEncoder",
    paper="Ning et al., User-LLM: Efficient LLM Contextualization with User Embeddings, WWW 2025 Companion",
    aliases=("user-encoder", "user_encoder"),
    train_loader="recbole_persona.data.windows:WindowTrainLoader",
)

register_model(
    "DIN",
    "recbole_persona.models.din:DIN",
    paper="Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018",
)
register_model(
    "POD",
    "recbole_persona.models.pod:POD",
    paper="Li et al., Prompt Distillation for Efficient LLM-based Recommendation, CIKM 2023",
    train_loader="recbole_persona.lm.task_batches:TaskTrainLoader",
)
register_model(
    "ConstantSentence",
    "recbole_persona.models.text_baselines:ConstantSentence",
    paper="none; the training sentence most like all others, for everybody",
)
register_model(
    "NearestReview",
    "recbole_persona.models.text_baselines:NearestReview",
    paper="none; the sentence that the most similar user wrote about the item",
)
register_model(
    "PeaPOD",
    "recbole_persona.models.peapod:PeaPOD",
    paper="Ramos et al., PeaPOD: Personalized Prompt Distillation for Generative Recommendation, 2024",
    train_loader="recbole_persona.lm.task_batches:TaskTrainLoader",
)

for _name, _needs, _smaller in (
    ("TDD", ("rec.list", "data.tastes"), True),
    ("ILD", ("rec.list", "data.item_profiles"), False),
    ("PersonaEntropy", ("rec.list", "rec.personas"), True),
    ("PersonaUsage", ("rec.list", "rec.personas"), False),
    ("HeadDivergence", ("model.heads",), False),
    ("HeadDivergenceStart", ("model.heads",), False),
    ("HeadDivergencePermuted", ("model.heads",), False),
):
    register_metric(_name, f"recbole_persona.evaluate.metrics:{_name}", type="RANKING", needs=_needs, smaller=_smaller)

_FEATURES, _RATINGS = ("data.features",), ("text.rating", "data.middle_rating")
for _name, _class, *_needs in (
    *((f"bleu-{_n}", f"Bleu{_n}") for _n in "1234"),
    *((f"peter-bleu-{_n}", f"PeterBleu{_n}") for _n in "1234"),
    *((f"rouge-{_n.lower()}", f"Rouge{_n}") for _n in "12L"),
    *((f"peter-rouge-{_n.lower()}", f"PeterRouge{_n}") for _n in "12L"),
    ("meteor", "Meteor"),
    ("meteor-exact-stem", "MeteorExactStem"),
    ("bertscore", "BertScoreF"),
    ("judge", "Judge"),
    ("usr", "USR"),
    ("distinct-1", "Distinct1"),
    ("distinct-2", "Distinct2"),
    ("length", "Length"),
    ("fmr", "FMR", *_FEATURES, "text.feature"),
    ("fcr", "FCR", *_FEATURES),
    ("div", "DIV", *_FEATURES),
    ("hallucinated", "Hallucinated", *_FEATURES, "data.item_features"),
    ("sentiment-agreement", "SentimentAgreement", *_RATINGS),
):
    register_metric(
        _name,
        f"recbole_persona.evaluate.text_metrics:{_class}",
        type=TEXT,
        needs=("text.generated", "text.reference", *_needs),
        smaller=_name in ("div", "hallucinated"),
    )
