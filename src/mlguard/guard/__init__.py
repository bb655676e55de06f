"""In which order? The only package that knows all parts."""

from mlguard.guard.exchange import Exchange, Steps, watched
from mlguard.guard.guard import Guard
from mlguard.guard.plan import Offer
from mlguard.guard.run import Run
from mlguard.guard.scopes import checked_scopes, demanded, demanding, mark

__all__ = [
    "Exchange",
    "Guard",
    "Offer",
    "Run",
    "Steps",
    "checked_scopes",
    "demanded",
    "demanding",
    "mark",
    "watched",
]
