"""Loads a user's file and finds its ``@webhook`` flows and outbound endpoints."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..core.errors import ConfigurationError
from ..core.specs import OutboundEndpoint, explain
from ..flows.webhook import WebhookFlow


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file that was loaded, by its absolute path, and what it declares."""

    path: Path
    flows: list[WebhookFlow]
    endpoints: list[OutboundEndpoint]


def load_file(file: Path) -> UserFile:
    """Run the file as a module, its folder importable, and return what it declares.

    Raises:
        ConfigurationError: there is no such file, it fails, or it declares nothing; or two of its
            flows cannot be told apart or differ about an endpoint; or an endpoint cannot be.
    """
    file = file.resolve()
    if not file.is_file() or file.suffix != ".py":
        raise ConfigurationError(f"{file} is not a Python file.")
    found = vars(_run(file)).values()
    flows = list({id(v): v for v in found if isinstance(v, WebhookFlow)}.values())
    endpoints = list({id(v): v for v in found if isinstance(v, OutboundEndpoint)}.values())
    if not flows and not endpoints:
        raise ConfigurationError(
            f"{file} has no flow with @webhook(...) above its @flow, and no OutboundEndpoint."
        )
    _check(flows)
    for endpoint in endpoints:
        endpoint.check()
    if clash := {e.slug for e in endpoints} & {flow.endpoint for flow in flows}:
        raise ConfigurationError(f"Endpoints {sorted(clash)} are inbound and outbound at once.")
    return UserFile(file, flows, endpoints)


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
        why = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigurationError(f"{file}{line} failed: {type(error).__name__}: {why}") from error
    return module


def _check(flows: list[WebhookFlow]) -> None:
    names = [flow.deployment for flow in flows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"Two flows are called {sorted(twice)}: give one another name.")
    schemes: dict[str, str] = {}
    for flow in flows:
        if schemes.setdefault(flow.endpoint, flow.scheme) != flow.scheme:
            raise ConfigurationError(f"Endpoint {flow.endpoint!r} is given two schemes.")
