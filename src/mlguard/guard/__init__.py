"""In which order? The only package that knows all parts."""

from mlguard.guard.answer import HeldAnswer
from mlguard.guard.bound import BoundRoute
from mlguard.guard.deadlines import Deadlines
from mlguard.guard.decision import Steps
from mlguard.guard.exchange import Exchange, watched
from mlguard.guard.guard import Guard, reset
from mlguard.guard.inference import InferenceContext
from mlguard.guard.models import Offer, tasks_of
from mlguard.guard.parts import Parts
from mlguard.guard.refusal_body import Refusal, RefusalBody

__all__ = [
    "BoundRoute",
    "Deadlines",
    "Exchange",
    "Guard",
    "HeldAnswer",
    "InferenceContext",
    "Offer",
    "Parts",
    "Refusal",
    "RefusalBody",
    "Steps",
    "reset",
    "tasks_of",
    "watched",
]
