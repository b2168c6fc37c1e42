"""All settings of the program: what there is in ``table``, how it is read in ``loading``.

Everybody else gets one frozen ``Settings`` and passes it on; nothing reads the environment or
a file of settings a second time.
"""

from stigmem_replicator.settings.effective import (
    DEFAULT_ORIGIN,
    DEFINITIONS,
    PER_PEER,
    Described,
    Settings,
)
from stigmem_replicator.settings.listening import Listen
from stigmem_replicator.settings.loading import Places, Review, load, review
from stigmem_replicator.settings.safekeeping import (
    insecure_warning,
    listening_warning,
    plain_token_warnings,
    warnings_about_keys,
)

__all__ = [
    "DEFAULT_ORIGIN",
    "DEFINITIONS",
    "PER_PEER",
    "Described",
    "Listen",
    "Places",
    "Review",
    "Settings",
    "insecure_warning",
    "listening_warning",
    "load",
    "plain_token_warnings",
    "review",
    "warnings_about_keys",
]
