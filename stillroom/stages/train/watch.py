"""Warn of terms that have long been 0."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG = logging.getLogger(__name__)
PATIENCE = 50  # steps


class ZeroWatch:
    """Warn, once a term, of a value that has been exactly 0 for `PATIENCE` steps in a row.

    Values that are not finite stop the run by themselves: see `finite`.
    """

    def __init__(self) -> None:
        self._zeros: Counter[str] = Counter()

    def add(self, terms: Mapping[str, float], step: int) -> None:
        """Take in the values of one step, by "<stream>/<term>"."""
        for name, value in terms.items():
            self._zeros[name] = self._zeros[name] + 1 if value == 0 else 0
            if self._zeros[name] == PATIENCE:
                LOG.warning(
                    "term %s has been 0 in each of the last %d steps (now at step %d): the student "
                    "learns nothing from it; look at what it reads with `stillroom cache preview`, "
                    "and at all terms with `stillroom train --check`",
                    name,
                    PATIENCE,
                    step,
                )
