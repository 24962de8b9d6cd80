"""A run is a folder: written and read here, by people who know no model class.

``config.yaml`` every setting, ready to run again; ``model.safetensors`` the best weights; ``state/`` what resuming needs;
``ids.json`` external ids by internal id; ``result.json`` (written last: a folder that has it is complete);
``per_user.csv.gz`` unrounded metrics per test user; ``train.log``.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import zlib
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock, Timeout

from recbole_persona.config import Config, read_yaml
from recbole_persona.errors import Busy, UserError
from recbole_persona.trust import refuse_foreign
from recbole_persona.upstream.files import atomic_path, remove_leftovers, write_text
from recbole_persona.version import __version__

FORMAT = 1

# Derived by Config from other keys: not written, but computed again.
_DERIVED = {
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "valid_metric_bigger", "device", "single_spec", "local_rank",
    "valid_neg_sample_args", "test_neg_sample_args",
}  # fmt: skip
# Where and how a run is computed, not what is computed: these do not make another run.
_NOT_HASHED = _DERIVED | {
    "data_path", "checkpoint_dir", "run_dir", "gpu_id", "use_gpu", "worker", "show_progress", "state", "log_wandb",
    "wandb_project", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "config_files",
    "allow_unknown", "nproc", "world_size", "offset", "ip", "port",
}  # fmt: skip
# Settings that came when there were runs already: at the value that changes nothing they leave the hash as it was.
_CAME_LATER = {
    "fused_adam": False,
    "max_steps": None,
    "warmup_steps": 0,
    "gradient_accumulation_steps": 1,
    "mask_history": None,
    "exact_time": False,
    "event_field": "event_type",
    "target_events": None,
    "held_out_users": None,
    "eval_history": "in order",
    "item_vectors": False,
    "code_levels": 3,
    "own_symbols": False,
    "code_symbols": False,
    "text_fields": [],
    "explanation_field": "explanation",
    "feature_field": "feature",
    "text_batch_size": 64,
    "bleu_tokenizer": "13a",
    "bertscore_encoder": None,
    "judge_url": None,
    "judge_model": None,
}
# What a run had that was written before the setting, where today's default is another one.
_EARLIER_DEFAULTS = {"fused_adam": False}
_EARLIER_DEFAULTS_OF_CODES = {"code_symbols": False}  # of models that have item codes


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.model_file = self.path / "model.safetensors"
        self.state_file = self.path / "state" / "last.safetensors"
        self.run_file = self.path / "state" / "run.json"
        self.ids_file = self.path / "ids.json"
        self.result_file = self.path / "result.json"
        self.per_user_file = self.path / "per_user.csv.gz"
        self.log_file = self.path / "train.log"

    @property
    def started(self) -> bool:
        return self.config_file.is_file()

    @property
    def complete(self) -> bool:
        return self.result_file.is_file()

    @contextmanager
    def lock(self):
        """Hold the folder; Busy when another process does. The lock dies with its process.

        A folder that the lock had to make, and in which no run has begun, is removed again.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            lock.acquire()
        except Timeout:
            raise Busy(f"Another process is at work in {self.path}; wait for it or name another --run_dir.") from None
        except OSError as error:
            raise UserError(
                f"The folder {self.path} cannot be written ({error.strerror}); name another --run_dir."
            ) from None
        try:
            self._remove_leftovers()  # of a process that was killed
            yield self
        finally:
            self._remove_leftovers()  # Ctrl-C may come while a file is being written, or its temporary one removed
            if made and not (self.started or self.complete):
                _remove(made)
            lock.release()

    def _refuse_links(self):
        """What is written into the folder must stay there; links may have come with a folder of somebody else."""
        written = [self.path / name for name in (".lock", "train.log", "state", "tensorboard", "wandb")]
        for path in (*written, *self.run_file.parent.glob("*")):
            if path.is_symlink():
                raise UserError(
                    f"{path} is a link, and a run would write where it leads; remove it, or name another --run_dir."
                )

    def _remove_leftovers(self):
        described = (self.config_file, self.run_file, self.ids_file)
        for file in (*described, self.state_file, self.model_file, self.result_file, self.per_user_file):
            remove_leftovers(file)

    def begin(self, config, split: str | None = None) -> None:
        """Write what a run is before it starts: ``state/run.json``, then ``config.yaml``.

        Args:
            split: the :func:`split_hash` of its data, by which an unfinished run is known to be on the same data again.
        """
        text = yaml.safe_dump(plain_config(config), sort_keys=True, allow_unicode=True)
        described = {"format": FORMAT, "config_hash": config_hash(config), "config_sha256": _sha256(text)}
        described |= {"split_hash": split, "versions": versions(), "commit": commit()}
        write_text(self.run_file, json.dumps(described, indent=1))
        write_text(self.config_file, text)

    def check_clear(self) -> None:
        """Refuse a folder that holds something else than a run, before anything in it is removed."""
        if self.path.is_dir() and not self.started and {p.name for p in self.path.iterdir()} - {".lock", "train.log"}:
            raise UserError(f"{self.path} is not the folder of a run (it has no config.yaml); name another --run_dir.")

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        self.check_clear()
        # result.json first: a clearing that is cut short must not leave a folder that looks complete
        for file in (self.result_file, self.per_user_file, self.model_file, self.ids_file, self.log_file):
            file.unlink(missing_ok=True)
        for folder in (self.path / "state", self.path / "tensorboard", self.path / "wandb"):
            shutil.rmtree(folder, ignore_errors=True)
        self.config_file.unlink(missing_ok=True)

    def description(self) -> dict:
        """``state/run.json``; UserError when this is no run folder, or one of another version's format."""
        if not self.path.is_dir():
            raise UserError(f"There is no run folder {self.path}.")
        if not self.started or not self.run_file.is_file():
            raise UserError(f"{self.path} is not the folder of a run; it lacks config.yaml or state/run.json.")
        described = read_json(self.run_file)
        if not isinstance(described, dict):
            raise UserError(f"{self.run_file} is not as a run writes it; it was damaged or edited.")
        if described.get("format") != FORMAT:
            raise UserError(
                f"{self.path} was written in run format {described.get('format')} by recbole_persona "
                f"{described.get('versions', {}).get('recbole_persona')}; this version reads format {FORMAT}."
            )
        return described

    def config(self, overrides=None, trust=False) -> Config:
        """The run's ``Config``, with ``overrides`` (for device, paths, batch sizes) on top.

        Args:
            trust: true lets ``config.yaml`` name code that is not installed, or a host that texts are sent to; a mapping
                lets those of its settings do so that have the values given there.

        Raises:
            UserError: no run folder, one that was damaged, or one that would run code and is not trusted (Untrusted).
        """
        if trust is True:
            return self._config(overrides)
        given, overrides = trust or {}, overrides or {}

        def refuse(settings):
            named = [key for key, value in given.items() if settings.get(key) == value]
            refuse_foreign(self.path, settings, {*overrides, *named})

        refuse({**self._written(), **overrides})
        config = self._config(overrides)
        refuse(config.final_config_dict)  # with the defaults of its data set
        return config

    def settings_hash(self) -> str:
        """:func:`config_hash` of the run's settings, which are only compared: of its code, the class of the model is needed."""
        written = self._written()
        refuse_foreign(self.path, {"model": written.get("model")})
        return config_hash(self._config())

    def _config(self, overrides=None):
        written = self._written()
        known = _EARLIER_DEFAULTS | (_EARLIER_DEFAULTS_OF_CODES if "item_codes" in written else {})
        earlier = {key: value for key, value in known.items() if key not in written}
        return Config(
            config_file_list=[str(self.config_file)],
            config_dict={**earlier, **(overrides or {}), "run_dir": str(self.path)},
        )

    def _written(self) -> dict:
        """What ``config.yaml`` holds."""
        described = self.description()
        damaged = UserError(f"{self.config_file} is not as the run wrote it; it was truncated or edited.")
        if described.get("config_sha256") != _sha256(self.config_file.read_text(encoding="utf-8", errors="replace")):
            raise damaged
        written = read_yaml(self.config_file)
        if _DERIVED.intersection(written):  # some act at once: local_rank joins a group of processes over the network
            raise damaged
        return written

    def write_ids(self, dataset) -> None:
        """Keep the external ids of users and items, by internal id (0 is padding)."""
        fields = [dataset.uid_field, dataset.iid_field]
        write_text(self.ids_file, json.dumps({field: dataset.field2id_token[field].tolist() for field in fields}))

    def ids(self) -> dict[str, list[str]]:
        """``{field: [external id of internal id 0, 1, …]}``."""
        return read_json(self.ids_file)

    def write_per_user(self, table: pd.DataFrame) -> None:
        with atomic_path(self.per_user_file) as temporary:
            table.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})

    def per_user(self) -> pd.DataFrame:
        """The table that :meth:`write_per_user` wrote; UserError when it is missing or truncated."""
        try:
            return pd.read_csv(self.per_user_file, dtype={"user": str}, keep_default_na=False, na_values=[""])
        except FileNotFoundError:
            raise UserError(f"There is no file {self.per_user_file}; the run folder is not whole.") from None
        except PermissionError:
            raise UserError(f"{self.per_user_file} cannot be read: permission denied.") from None
        except (EOFError, OSError, zlib.error, ValueError):
            raise UserError(f"{self.per_user_file} cannot be read; it was truncated or edited.") from None

    def write_result(self, result: dict) -> None:
        """Write ``result.json``, which makes the folder complete."""
        write_text(self.result_file, json.dumps(result, indent=1))

    def split(self) -> str | None:
        """The :func:`split_hash` of the run's data; None of an unfinished run that an earlier version began."""
        return self.result()["split_hash"] if self.complete else self.description().get("split_hash")

    def result(self) -> dict:
        if not self.complete:
            raise UserError(f"The run in {self.path} is not complete; continue it with --resume={self.path}.")
        return read_json(self.result_file)


def _remove(made):
    """Remove a folder, and the folders above it that were made for it, unless somebody else uses these by now."""
    shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        with suppress(OSError):
            folder.rmdir()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(file):
    """A JSON file; UserError when it is missing or truncated."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {file}; the run folder is not whole.") from None
    except PermissionError:
        raise UserError(f"{file} cannot be read: permission denied.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{file} is not valid JSON; it was truncated or edited.") from None


def default_path(config) -> Path:
    """``runs/<dataset>-<model>-<seed>-<config hash>``."""
    model = config["model"].rpartition(":")[2]
    return Path("runs") / f"{config['dataset']}-{model}-{config['seed']}-{config_hash(config)}"


def plain_config(config) -> dict:
    """The settings as YAML can hold them, such that reading them again gives the same ``Config``."""
    values = {key: _plain(value) for key, value in config.final_config_dict.items() if key not in _DERIVED}
    if config.sizes_eval_steps:
        values["eval_batch_size"] = None  # a number would be one that the user has set
    values["data_path"] = str(Path(values["data_path"]).resolve().parent)  # Config adds the data set's name again
    if (values.get("train_neg_sample_args") or {}).get("distribution") == "none":
        values["train_neg_sample_args"] = None
    return values


def portable_config(config) -> dict:
    """The settings that were given, without what belongs to this machine: devices, processes, absolute paths of data.

    Returns:
        ``model``, ``dataset`` and the given settings as YAML can hold them.
    """
    given = {key: _plain(value) for key, value in config.external_config_dict.items() if not _of_machine(key, value)}
    return {**given, "model": config["model"], "dataset": config["dataset"]}


def machine_config(config) -> dict:
    """The given settings that :func:`portable_config` leaves out."""
    return {key: _plain(value) for key, value in config.external_config_dict.items() if _of_machine(key, value)}


def _of_machine(key, value) -> bool:
    if key == "data_path":
        return Path(value).is_absolute()
    return key in _NOT_HASHED and key not in ("allow_unknown", "save_dataset", "save_dataloaders")


def _plain(value):
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum) or not isinstance(value, (str, int, float, bool, type(None))):
        return str(value)
    return value


def config_hash(config) -> str:
    """Eight hexadecimal digits over every setting that changes what is computed."""
    values = {key: value for key, value in plain_config(config).items() if key not in _NOT_HASHED}
    values["eval_batch_size"] = config["eval_batch_size"]
    for key, before in _CAME_LATER.items():
        if values.get(key) == before:
            values.pop(key, None)
    if str(values.get("backbone")).startswith("scratch:") or values.get("item_codes") == "title":
        values.pop("code_symbols", None)  # nobody reads it: the tokenizer is made with the symbols, or there are none
    if "longest_answer" in values and values["longest_answer"] is None and "explanation" not in values["tasks"]:
        values["longest_answer"] = 20  # its default once; nobody reads it where no sentence is learned
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def split_hash(datasets) -> str:
    """Sixteen hexadecimal digits over which (user, item) pair is in which part, whatever the order of the rows.

    Args:
        datasets: the data sets of training, validation and test (internal ids; shared id maps).
    """
    digest = hashlib.sha256()
    ranks = []
    for field in (datasets[0].uid_field, datasets[0].iid_field):
        tokens = datasets[0].field2id_token[field].astype(str)
        order = np.argsort(tokens, kind="stable")
        rank = np.empty(len(tokens), dtype=np.int64)  # internal ids depend on the order of the file, ranks do not
        rank[order] = np.arange(len(tokens))
        ranks.append(rank)
        digest.update("\n".join(tokens[order]).encode())
    for dataset in datasets:
        feat = dataset.inter_feat
        users, items = (np.asarray(feat[field]) for field in (dataset.uid_field, dataset.iid_field))
        digest.update(np.sort(ranks[0][users] * len(ranks[1]) + ranks[1][items]).tobytes())
    return digest.hexdigest()[:16]


@cache
def _versions() -> dict[str, str]:
    found = {"recbole_persona": __version__, "python": platform.python_version()}
    for name in ("recbole", "torch", "numpy", "scipy", "pandas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return dict(_versions())


def commit() -> str | None:
    """The commit of the checkout that this package is imported from; None outside a checkout."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
