"""Loads a user's file and finds its ``@webhook`` flows."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from ..core.errors import ConfigurationError
from ..flows.webhook import WebhookFlow


def load_flows(file: Path) -> list[WebhookFlow]:
    """Run the file as a module, its folder importable, and return its flows.

    Raises:
        ConfigurationError: there is no such file, it fails, or it has no ``@webhook`` flow; or two
            of its flows cannot be told apart or differ about an endpoint.
    """
    file = file.resolve()
    if not file.is_file() or file.suffix != ".py":
        raise ConfigurationError(f"{file} is not a Python file.")
    module = _run(file)
    flows = list({id(v): v for v in vars(module).values() if isinstance(v, WebhookFlow)}.values())
    if not flows:
        raise ConfigurationError(f"{file} has no flow with @webhook(...) above its @flow.")
    _check(flows)
    return flows


def _run(file: Path) -> object:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[file.stem]
        where = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = f", line {where[-1].lineno}" if where else ""
        raise ConfigurationError(f"{file}{line} failed: {type(error).__name__}: {error}") from error
    return module


def _check(flows: list[WebhookFlow]) -> None:
    names = [flow.deployment for flow in flows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"Two flows are called {sorted(twice)}: give one another name.")
    schemes: dict[str, str] = {}
    for flow in flows:
        if schemes.setdefault(flow.endpoint, flow.scheme) != flow.scheme:
            raise ConfigurationError(f"Endpoint {flow.endpoint!r} is given two schemes.")
