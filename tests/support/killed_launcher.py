"""A launcher as ``prefect-n8n launch FILE`` starts it, that kills itself before or after a step.

``KILL_AT`` is ``<before|after> <step> <count>``: at the count-th passing, the process ends as by
``kill -9``. Without it, it is the command itself.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from prefect_n8n.cli.app import main
from prefect_n8n.flows.attempting import Sender
from prefect_n8n.flows.fall_back import Climb
from prefect_n8n.flows.fallback_steps import Action
from prefect_n8n.launcher.claiming import Claiming
from prefect_n8n.launcher.delivering import Delivering
from prefect_n8n.launcher.falling_back import FallingBack
from prefect_n8n.launcher.launching import Launching
from prefect_n8n.launcher.reconciling import Reconciler
from prefect_n8n.launcher.runner import Runner

STEPS: dict[str, type] = {
    "inbox.claim": Claiming,
    "launch.plan": Launching,
    "launch.create": Launching,
    "launch.store": Launching,
    "launch.end": Launching,
    "run.lease": Runner,
    "run.claim": Runner,
    "run.execute": Runner,
    "run.settle": Runner,
    "rescue._take_over": Reconciler,
    "deliver.claim": Delivering,
    "deliver.create": Delivering,
    "deliver.store": Delivering,
    "deliver.execute": Delivering,
    "deliver.settle": Delivering,
    "attempt._prepare": Sender,
    "attempt.call": Sender,
    "attempt.close": Sender,
    "attempt.settle": Sender,
    "attempt.ask": Sender,
    "fallback.claim": FallingBack,
    "fallback.create": FallingBack,
    "fallback.store": FallingBack,
    "fallback.execute": FallingBack,
    "fallback.settle": FallingBack,
    "climb.begin_step": Climb,
    "climb.start": Climb,
    "climb.close_step": Climb,
    "climb.end": Climb,
    "action.store": Action,
}


def arm(when: str, step: str, count: int) -> None:
    """Wrap the step so that its count-th passing is this process's last."""
    owner, name = STEPS[step], step.partition(".")[2]
    original = getattr(owner, name)
    passings = itertools.count(1)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        last = next(passings) == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await original(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    if at := os.environ.get("KILL_AT"):
        moment, place, number = at.split()
        arm(moment, place, int(number))
    sys.argv[0] = "prefect-n8n"
    main()
