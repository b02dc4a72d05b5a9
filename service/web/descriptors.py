"""
How many files and connections this process may have open at once.

A Mac gives 256 unless told otherwise, which a burst of clients is enough for: then the server could accept
no connection, and start no engine either.
"""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger(__name__)

# The most that a Mac lets any process have, OPEN_MAX in its <sys/syslimits.h>; above it the call fails there.
WANTED = 10240


def raise_limit() -> None:
    """Raise the soft limit to WANTED, or to the hard limit where that is lower; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _covers(soft, WANTED):
        return
    reachable = WANTED if _covers(hard, WANTED) else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError) as error:
        _log.warning("The limit of open files stays at %d: %s", soft, error)
        return
    if reachable < WANTED:
        _log.warning("At most %d files and connections can be open: the hard limit.", reachable)


def _covers(limit: int, n: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= n
