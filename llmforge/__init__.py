"""Experiments with language models. For a notebook: load_config, run_experiment, Experiment, compare; load_study, run_study."""

__version__ = "0.1.0"
__distribution__ = "llmforge-lab"  # what pip installs; `lib_name` in settings.ini

_PUBLIC = {  # name -> its module, which is imported when the name is used
    "Experiment": "experiment",
    "LlmForgeError": "core",
    "Store": "store",
    "compare": "comparison",
    "find_experiment": "results",
    "load_config": "config",
    "load_study": "studyconfig",
    "run_experiment": "runner",
    "run_study": "study",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
