"""What is left to chance?

Numbers of our own: a host that calls `random.seed`, as model code often does, would repeat the ids
of its traces in every worker, and our threads would disturb the sequence it asked for.
"""

from __future__ import annotations

import os
from random import Random

CHANCE = Random()  # noqa: S311 - it picks ids, samples and pauses, no secrets

if hasattr(os, "register_at_fork"):  # workers of one parent must not draw alike
    os.register_at_fork(after_in_child=CHANCE.seed)
