"""Where can a test stop a writer? At the points named here, before and after each step that must be atomic.

HEADSCOPE_FAILPOINT="name[:nth]:action" arms one point for its nth passing in this process, by default the
first. The action is kill (SIGKILL to this process), raise, sleep=SECONDS or enospc (as if the disk were
full).
"""

import errno
import os
import signal
import time

VARIABLE = "HEADSCOPE_FAILPOINT"
# While a result that was asked for is written.
DERIVED = (
    "before-result-part",
    "after-result-part",
    "before-result-join",
    "before-result-publish",
    "after-result-publish",
    "after-result-flush",
)
# While a piece of an analysis is written.
PIECES = ("before-piece-write", "before-piece-ack", "after-piece-ack")
EXCHANGE = ("after-object-push", "before-commit", "after-object-pull", "before-place")
NAMES = (
    "before-unit-write",
    "after-unit-write",
    "before-unit-ack",
    "after-unit-ack",
    "before-gather",
    "before-gather-ack",
    "before-stage-write",
    "before-stage-ack",
    "after-stage-ack",
    "before-manifest",
    "after-manifest",
    "after-hold",
    "half-placed",
    "before-ledger-commit",
    "after-ledger-commit",
    *EXCHANGE,
    *DERIVED,
    *PIECES,
)

_setting: str | None = None
_passed = 0


class InjectedError(RuntimeError):
    """Raised by an armed failpoint whose action is `raise`."""


def hit(name: str) -> None:
    """Do what the environment says for the point `name`; without the variable, nothing."""
    global _setting, _passed
    if name not in NAMES:
        raise ValueError(f"failpoint {name!r} is not one of {', '.join(NAMES)}")
    setting = os.environ.get(VARIABLE)
    if setting != _setting:
        _setting, _passed = setting, 0
    if setting is None:
        return
    armed, nth, action = parsed(setting)
    if armed != name:
        return
    _passed += 1
    if _passed == nth:
        _act(name, action)


def parsed(setting: str) -> tuple[str, int, str]:
    """Name, count and action of `setting`.

    Raises:
        ValueError: The name is unknown, the count is not a number above 0, or the action is unknown.
    """
    name, _, rest = setting.partition(":")
    count, colon, action = rest.rpartition(":")
    nth = count if colon else "1"
    known = action in ("kill", "raise", "enospc") or _seconds(action) is not None
    if name not in NAMES or not nth.isdecimal() or int(nth) < 1 or not known:
        raise ValueError(
            f"{VARIABLE}={setting!r} is not name[:nth]:action with a name of {', '.join(NAMES)} "
            "and an action kill, raise, sleep=SECONDS or enospc"
        )
    return name, int(nth), action


def _seconds(action: str) -> float | None:
    word, _, number = action.partition("=")
    try:
        return float(number) if word == "sleep" else None
    except ValueError:
        return None


def _act(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise InjectedError(f"failpoint {name}")
    if action == "enospc":
        raise OSError(errno.ENOSPC, f"failpoint {name}")
    time.sleep(_seconds(action) or 0)
