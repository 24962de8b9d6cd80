"""What a run's settings would run, or send away: where only a file that came with the run names it, ``--trust`` is needed.

Packages that are installed (in site-packages), RecBole, and ours are trusted, and so is a module that this process has
imported already: importing it again runs nothing. Nothing is imported to find out.
"""

import site
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from urllib.parse import urlsplit

from recbole_persona.errors import UserError

KEYS = ("model", "trust_remote_code", "attn_implementation", "lora", "judge_url")  # whose values can do so


def refuse_foreign(source, settings: Mapping, named: Collection[str] = ()) -> None:
    """Refuse settings that would run code which is not installed here.

    Args:
        source: the folder or file that the settings come from, for the text of the error.
        settings: values by key.
        named: keys whose values this command gives itself.

    Raises:
        UserError: names ``source``, what would run, and ``--trust``.
    """
    would = [f"{what} ({key})" for key, what in _foreign(settings) if key not in named]
    if would:
        raise UserError(
            f"The settings in {source} would {' and '.join(would)}; if you trust whoever wrote them, add --trust "
            "(in Python trust=True)."
        )


def _foreign(settings) -> Iterator[tuple[str, str]]:
    """(key, what it does) of every setting that runs code, or sends data away."""
    model = settings.get("model")
    if isinstance(model, str) and ":" in model and not model.startswith("recbole:"):
        module = model.partition(":")[0]
        if not _is_installed(module):
            yield "model", f"run the module {module!r}, which is not installed"
    if settings.get("trust_remote_code"):
        yield "trust_remote_code", f"run the code that comes with the model {settings.get('backbone')!r}"
    attention = settings.get("attn_implementation")
    if isinstance(attention, str) and "/" in attention:  # transformers fetches it
        yield "attn_implementation", f"run the kernel {attention!r}"
    lora = settings.get("lora")
    if isinstance(lora, dict) and lora.get("megatron_config"):  # peft imports it
        yield "lora", f"run the module {lora.get('megatron_core', 'megatron.core')!r}"
    metrics = settings.get("metrics") or ()
    judge = settings.get("judge_url")
    if judge and "judge" in [str(name).lower() for name in ([metrics] if isinstance(metrics, str) else metrics)]:
        yield "judge_url", f"send texts, and the judge's key, to {urlsplit(str(judge)).hostname}"


def _is_installed(module: str) -> bool:
    """Whether ``package.module`` is a file of an installed package, or imported already."""
    if module in sys.modules:
        return True
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
