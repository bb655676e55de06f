"""What can go wrong, as exceptions.

MLGuardError
 ├─ InvalidSettings      the settings file, the environment or the app contradict what must be true
 ├─ InvalidReference     the file that says what training looked like cannot be used
 ├─ MissingExtra         a part that is switched on needs packages that are not installed
 ├─ UnknownModel         a handler names a model that the settings do not have
 ├─ BlockingCall         the blocking form of a call was used where an event loop runs
 ├─ ProtocolError        an adapter reported what cannot follow
 └─ Refused              the caller may not go on: carries the Deny, which becomes the answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlguard.messages import Deny


class MLGuardError(Exception):
    """The base of everything this package raises."""


class InvalidSettings(MLGuardError):
    """The settings cannot be used.

    Attributes:
        problems: One sentence a mistake, each naming the key, the value and what it must be.
    """

    def __init__(self, *problems: str, source: str = "") -> None:
        self.problems = problems
        where = f"{source}: " if source else ""
        if len(problems) == 1:
            text = where + problems[0]
        else:
            text = where + f"{len(problems)} mistakes" + "".join(f"\n  - {p}" for p in problems)
        super().__init__(text)


class InvalidReference(MLGuardError):
    """The reference data or its file cannot be used; the message names what and why."""


class MissingExtra(MLGuardError):
    """A part needs an optional package; the message says what to install."""


class UnknownModel(MLGuardError):
    """A model was named that the settings do not have."""


class BlockingCall(MLGuardError):
    """A blocking form was used on an event loop; the message names the form to use."""


class ProtocolError(MLGuardError):
    """An adapter reported an event that cannot follow what it reported before."""


class Refused(MLGuardError):
    """Stops a running handler because its caller may not go on.

    Attributes:
        deny: What the client is told.
    """

    def __init__(self, deny: Deny) -> None:
        self.deny = deny
        super().__init__(deny.code)
