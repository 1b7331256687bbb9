"""Import and call a user's own "module:function"."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import StringConstraints

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


def call_target(target: str, options: Mapping[str, Any]) -> Any:
    """Import the module of "module:function" and call the function with `options` as keywords.

    Raises:
        ConfigError: no such module or function, or it does not take these options. What goes wrong
            inside the function is raised as it is: its traceback shows where.
    """
    function = find_target(target)
    _demand_taken(target, function, options)
    return function(**options)


def find_target(target: str) -> Callable[..., Any]:
    """Import the module of "module:function" and return the function.

    Raises:
        ConfigError: no such module or function.
    """
    module_name, _, name = target.partition(":")
    try:
        module = _module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"target {target!r}: module {module_name!r} cannot be imported ({error}); "
            "install it, call from its folder, or put that on PYTHONPATH"
        ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"target {target!r}: module {module_name!r} has no function {name!r}")
    return function


def _demand_taken(target: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some functions in C; the call itself will raise
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"target {target!r} does not take {dict(options)}: {error}; it is called as {signature}"
        ) from error


def _module(name: str) -> ModuleType:
    """Import a module, from the folder that is called from where it is nowhere else.

    That folder comes last: nothing in it hides a module that is installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != name.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(name)
