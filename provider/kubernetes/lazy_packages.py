"""Packages that run once something in them is asked for that is not there: who needs little of them imports little.

The client library of a large API imports a module for each thing in that API, and has each of its users pay for all of
them. Whoever asks for more than was imported still gets it.
"""

import importlib.util
import sys


def register_lazy_packages(*names: str) -> None:
    """Have these packages, each after its parent, without running them. Those that are imported stay as they are."""
    for name in names:
        if name not in sys.modules:
            _enter(name)


def _enter(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def run(attribute: str) -> object:
        del vars(package)["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = run  # a module's own, which is called for what is not there (PEP 562)
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
