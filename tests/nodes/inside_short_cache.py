"""A plugin of a real node, for tests alone: its memory of tombstones lasts one second, not sixty.

A node remembers which entities are tombstoned for a minute, and nothing from outside can make it
forget sooner but a restart. This changes how long, and nothing of what it does with it. It is
loaded by the node as any plugin is, see tombstone_plugin.py.
"""

# What belongs to the node has no types here: the tests' own environment does not have it.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from stigmem_node.lifecycle import tombstone_cache, tombstones
from stigmem_node.plugins import PluginManifest

NAME = "stigmem-plugin-test-short-tombstone-cache"
CACHE_S = 1.0


def plugin_manifest() -> PluginManifest:
    """Shorten the two memories, and register under a name that says so."""
    tombstone_cache._CACHE_TTL_SECONDS = CACHE_S  # noqa: SLF001 - the node's own
    tombstones._TOMBSTONE_CACHE_TTL = CACHE_S  # noqa: SLF001 - as above
    return PluginManifest(name=NAME, version="0.0.1", requires_stigmem=">=0.9.0a3")
