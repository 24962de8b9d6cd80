"""What a run's settings would run, or send away: where only a file that came with the run names it, ``--trust`` is needed.

Packages that are installed (in site-packages), RecBole, and ours are trusted, and so is a module that this process has
imported already: importing it again runs nothing. Nothing is imported to find out.
"""

import json
import site
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from recbole_persona.errors import Untrusted

# Settings that can do so.
KEYS = ("model", "trust_remote_code", "attn_implementation", "lora", "backbone", "bertscore_encoder", "judge_url")
_TRUST = "add --trust (in Python trust=True)"


def refuse_foreign(source, settings: Mapping, named: Collection[str] = (), remedy: str = _TRUST) -> None:
    """Refuse settings that would run code which is not installed here.

    Args:
        source: the folder or file that the settings come from, for the text of the error.
        settings: values by key.
        named: keys whose values this command gives itself.
        remedy: what to do about it, for the text of the error.

    Raises:
        Untrusted: names ``source``, what would run, and the remedy.
    """
    would = [f"{what} ({key})" for key, what in _foreign(settings) if key not in named]
    if would:
        raise Untrusted(
            f"The settings in {source} would {' and '.join(would)}; if you trust whoever wrote them, {remedy}."
        )


def _foreign(settings) -> Iterator[tuple[str, str]]:
    """(key, what it does) of every setting that runs code, or sends data away."""
    model = settings.get("model")
    if isinstance(model, str) and ":" in model and not model.startswith("recbole:"):
        module = model.rpartition(":")[0]
        if not _is_installed(module):
            yield "model", f"run the module {module!r}, which is not installed"
    if settings.get("trust_remote_code"):
        yield "trust_remote_code", f"run the code that comes with the model {settings.get('backbone')!r}"
    attention = settings.get("attn_implementation")
    if isinstance(attention, str) and "/" in attention:  # transformers fetches it
        yield "attn_implementation", f"run the kernel {attention!r}"
    adapters = {"lora": settings.get("lora")}
    adapters |= {key: _adapter(settings.get(key)) for key in ("backbone", "bertscore_encoder")}
    for key, lora in adapters.items():
        if isinstance(lora, dict) and lora.get("megatron_config"):  # peft imports it
            yield key, f"run the module {lora.get('megatron_core', 'megatron.core')!r}"
    metrics, judge = settings.get("metrics"), settings.get("judge_url")
    if judge and "judge" in [
        str(name).lower() for name in (metrics if isinstance(metrics, (list, tuple)) else [metrics])
    ]:
        host = str(judge).partition("://")[2].partition("/")[0].rpartition("@")[2]
        yield "judge_url", f"send texts, and the judge's key, to {host}"


def _adapter(folder):
    """The settings of peft's adapter in the folder of a pretrained model; None where there is none."""
    try:
        return json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return None


def _is_installed(module: str) -> bool:
    """Whether ``package.module`` is a file of an installed package, or imported already."""
    if (str(Path(module).expanduser().resolve()) if module.endswith(".py") else module) in sys.modules:
        return True
    if module.endswith(".py"):
        return False
    path, name, spec = None, "", None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        try:
            spec = PathFinder.find_spec(name, path)  # importlib.util.find_spec would import the packages above
        except (KeyError, ValueError):  # no name of a module, or part of a package without __init__.py
            return False
        if spec is None:
            return False
        path = list(spec.submodule_search_locations or ())
    return bool(spec.origin) and any(
        Path(spec.origin).resolve().is_relative_to(folder) for folder in _trusted_folders()
    )


def _trusted_folders() -> list[Path]:
    """The folders of installed packages, and the packages of RecBole and ours, which may stand in a checkout."""
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")] + site.getsitepackages()
    folders += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    folders += [Path(sys.modules[name].__file__).parent for name in ("recbole", "recbole_persona")]
    return [Path(folder).resolve() for folder in folders]
