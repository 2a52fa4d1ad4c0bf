"""The strawman: processes of this cluster and of other domains send each other envelopes through shared memory.

`node.strawman` is a manager.Strawman; docs/strawman.md tells the story. Only pores.py and host.py here import the
package `pores`, and only when a node asks for it.
"""

from .errors import StrawError
from .manager import Counts, Strawman
from .tables import Counted, Limits

__all__ = ["Counted", "Counts", "Limits", "StrawError", "Strawman"]
