"""Plans of pages written out with a pen, and what is told about each entry besides.

Beside the bytes there are the traits of each entry, told from its JSON alone: ways in which the
node and we are known to part. An entry under an id of an earlier one has none of them, because
then everything that follows under that id would differ too.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.differential.drafts import CLOCKS, COUNTERS, GONE, Again, Content, Fresh, Junk
from tests.differential.pen import content_id, legacy_content_id, value_text
from tests.differential.traits import ID_CHARACTERS, MISTYPED, traits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.differential.drafts import Draft, Put, Round
    from tests.differential.pen import JsonObject, Pen

_OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"another key, that is not theirs.")
_POSITION = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it stands on its page."""

    raw: Any
    fact_id: str | None
    """The id, where it is a text."""
    traits: frozenset[str]


@dataclass(frozen=True, slots=True)
class Script:
    """A round written out."""

    dialect: int
    bodies: list[bytes]
    entries: list[Entry]
    cursors: list[str | None]
    positions: set[str]
    """Cursors and HLCs up to which a page leads, without those in the future."""

    def ids(self, trait: str) -> set[str]:
        """The ids of the entries that have a trait."""
        return {
            entry.fact_id
            for entry in self.entries
            if trait in entry.traits and entry.fact_id is not None
        }

    def well_typed(self) -> set[str]:
        """The ids that an entry has whose fields all have the wire's types."""
        return {
            entry.fact_id
            for entry in self.entries
            if entry.fact_id is not None and MISTYPED not in entry.traits
        }

    def old_content_ids(self) -> set[tuple[str, str]]:
        """Each (id, content id) of a signed entry whose content id is that of wire version 1."""
        return {
            (entry.fact_id, entry.raw["fact"]["cid"])
            for entry in self.entries
            if self.dialect == 2 and entry.fact_id is not None and not entry.traits
            if entry.raw["fact"]["cid"] == legacy_content_id(entry.raw["fact"])
        }

    def sources(self) -> set[tuple[str, str]]:
        """Every (source, scope) of an entry whose fields are texts."""
        return {
            (fact["source"], fact["scope"])
            for entry in self.entries
            if entry.fact_id is not None and MISTYPED not in entry.traits
            for fact in (entry.raw["fact"] if self.dialect == 2 else entry.raw,)
        }


def write(plan: Round, pen: Pen) -> Script:
    """Write a round; each page ends with a good fact, whatever came before it."""
    writer = _Writer(pen, frozenset(plan.scopes) - {"local"}, mapped=bool(plan.tenants))
    script = Script(pen.dialect, [], [], [], set())
    for number, draft in enumerate(plan.pages):
        entries = [writer.entry(item) for item in draft.entries]
        last = Content(entity="key:a" if number % 2 else "good")
        entries.append(writer.entry(Fresh(last, acts=("mapped tenant",) if plan.tenants else ())))
        onward = f"{pen.wall_ms + 1000 + number}.0"
        cursor = {
            "onward": onward,
            "back": f"{pen.wall_ms - 1000 - number}.0",
            "future": f"{pen.wall_ms + 86_400_000 + number}.0",
            "null": None,
        }[draft.cursor]
        script.bodies.append(pen.page([entry.raw for entry in entries], cursor=cursor))
        script.entries.extend(entries)
        script.cursors.append(cursor)
        clocks = {clock for entry in entries if (clock := _clock_of(entry.raw)) is not None}
        script.positions.update(
            clock
            for clock in clocks | ({cursor} if cursor else set())
            if clock < str(pen.wall_ms + 300_000) and clock <= (cursor or clock)
        )
    if plan.begun_again:
        script.bodies.append(script.bodies[0])
        script.cursors.append(script.cursors[0])
    return script


class _Writer:
    def __init__(self, pen: Pen, scopes: frozenset[str], *, mapped: bool) -> None:
        self._pen = pen
        self._scopes = scopes
        self._mapped = mapped
        self._bases: list[tuple[str, Content]] = []

    def entry(self, draft: Draft) -> Entry:
        if isinstance(draft, Junk):
            return Entry(draft.value, None, frozenset({MISTYPED}))
        if isinstance(draft, Again):
            return self._again(draft)
        content = draft.content
        made = self._made(content, None, draft.acts, draft.puts)
        if made.fact_id is not None and not made.traits:
            # What follows under the id may be this content as it is.
            plain = self._made(content, made.fact_id, (), ())
            if not plain.traits:
                self._bases.append((made.fact_id, content))
        return made

    def _again(self, draft: Again) -> Entry:
        if not self._bases:
            return self.entry(Fresh())
        fact_id, content = self._bases[-1 - draft.which % len(self._bases)]
        changed = replace(content, **dict(draft.changed))
        made = self._made(changed, fact_id, draft.acts, draft.puts)
        if made.traits or made.fact_id != fact_id:
            return self._made(content, fact_id, (), ())
        return made

    def _made(
        self,
        content: Content,
        fact_id: str | None,
        acts: Sequence[str],
        puts: Sequence[Put],
    ) -> Entry:
        raw = _Entry(self._pen, content, fact_id, acts, puts).written()
        return Entry(raw, _text_id(raw), traits(raw, self._scopes, self._pen))


class _Entry:
    """One entry on its way to the page: the fact, its content id, its signature, the rest."""

    def __init__(
        self,
        pen: Pen,
        content: Content,
        fact_id: str | None,
        acts: Sequence[str],
        puts: Sequence[Put],
    ) -> None:
        self.pen = pen
        self.acts = acts
        self.puts = puts
        self.content = content
        self.fact = pen.fact(
            content.entity,
            content.relation,
            content.value,
            type=content.kind,
            scope=content.scope,
            source=content.source,
            confidence=content.confidence,
            valid_until=content.valid_until,
            interpret_as=content.interpret_as,
        )
        self.fact["timestamp"] = content.timestamp
        self.fact["hlc"] = _clock(content.clock, pen.wall_ms, self.fact["hlc"])
        if fact_id is not None:
            self.fact["id"] = fact_id

    def written(self) -> Any:  # noqa: ANN401 - any JSON
        holder = {"fact": self.fact}
        if "a very long id" in self.acts:
            self.fact["id"] += "-" * ID_CHARACTERS
        self._put("fact", holder)
        self._give_content_id()
        if "keys that nobody knows" in self.acts:
            self.fact["unheard_of"] = {"x": [1]}
        holder["origin"] = self._origin()
        self._put("signed", holder)
        entry = self._signed(holder["fact"], holder.get("origin"))
        self._on_the_way(entry)
        self._put("entry", entry)
        return entry

    def _give_content_id(self) -> None:
        fact = self.fact
        compute = self.pen.content_id
        if "content id of the other wire" in self.acts:
            compute = legacy_content_id if self.pen.dialect == 2 else content_id
        meant = deepcopy(fact)
        value = meant.get("value")
        if isinstance(value, dict) and value.get("type") == "number":
            if "number in a spelling of its own" in self.acts:
                value["v"] = f"+{value_text(value)}"
            if self.content.as_served and isinstance(value.get("v"), int):
                fact["value"]["v"] = float(value["v"])
        try:
            fact["cid"] = compute(meant)
        except (TypeError, ValueError, AttributeError, KeyError):
            return  # there is none: the one that it had before stays
        if "content id upper case" in self.acts:
            fact["cid"] = fact["cid"].upper()
        if "without content id" in self.acts:
            fact["cid"] = None

    def _origin(self) -> JsonObject:
        tenant = "acme" if {"another tenant", "mapped tenant"} & set(self.acts) else "default"
        block: JsonObject = {
            "tenant": tenant,
            "node_id": self.pen.node_id,
            "allowed_scopes": sorted({"company", "public", self.content.scope}),
            "allowed_tenants": [tenant],
            "entity_uri": self.pen.entity_uri,
        }
        for act, fields in (
            ("of another origin", {"node_id": "stigmem:node:another"}),
            ("without organisation", {"entity_uri": ""}),
            ("another organisation", {"entity_uri": "https://another.example"}),
            ("scope not granted", {"allowed_scopes": ["nothing"]}),
            ("tenant not granted", {"allowed_tenants": ["nobody"]}),
            ("keys that nobody knows", {"unheard_of": None}),
        ):
            if act in self.acts:
                block.update(fields)
        if "grants repeated and unsorted" in self.acts:
            scopes = block["allowed_scopes"]
            block["allowed_scopes"] = [*reversed(scopes), "zebra", *scopes]
        return block

    def _signed(self, fact: Any, origin: Any) -> JsonObject:  # noqa: ANN401 - any JSON
        if self.pen.dialect == 1:
            return dict(fact)
        by = _OTHER_KEY if "signed by another key" in self.acts else None
        try:
            return self.pen.sign(fact, by=by, block=origin)
        except (TypeError, ValueError, AttributeError, KeyError):
            return {"fact": fact, "origin": origin, "origin_sig": "A" * 86}  # cannot be signed

    def _on_the_way(self, entry: JsonObject) -> None:
        fact = entry if self.pen.dialect == 1 else entry["fact"]
        if "valid_until changed on the way" in self.acts:
            fact["valid_until"] = "2040-01-01T00:00:00Z"
        if "value changed on the way" in self.acts:
            fact["value"] = {"type": "string", "v": "changed", "interpret_as": "content"}
        if self.pen.dialect == 1:
            return
        signature = entry["origin_sig"]
        for act, changed in (
            ("signature garbled", "not base64!"),
            ("signature padded", f"{signature}=="),
            # Four more characters, so that the node comes to the right padding.
            ("signature with line breaks", f"{signature[:40]}\r\n{signature[40:]}\r\n"),
        ):
            if act in self.acts:
                entry["origin_sig"] = changed
        if "keys that nobody knows" in self.acts:
            entry["unheard_of"] = True

    def _put(self, stage: str, holder: JsonObject) -> None:
        for put in self.puts:
            if put.stage != stage:
                continue
            path, value = put.path, put.value
            if path == ("fact", "id") and isinstance(value, str) and value.isalnum():
                value = GONE  # a good id, which another entry may have too
            if self.pen.dialect == 1 and stage == "entry" and path[0] == "fact":
                path = path[1:]
            _replace(holder, path, value)


def _replace(holder: Any, path: Sequence[str], value: Any) -> None:  # noqa: ANN401 - any JSON
    *way, last = path or ("",)
    for key in way:
        holder = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not last:
        return
    if value == GONE:
        holder.pop(last, None)
    else:
        holder[last] = deepcopy(value)


def _clock(name: str | None, wall_ms: int, usual: str) -> str | None:
    if name == "near":
        return usual
    if name in CLOCKS:
        return f"{wall_ms + CLOCKS[name]}.3"
    if name in COUNTERS:
        return f"{wall_ms}{COUNTERS[name]}"
    return name


def _text_id(raw: Any) -> str | None:  # noqa: ANN401 - any JSON
    fact = raw.get("fact", raw) if isinstance(raw, dict) else None
    fact_id = fact.get("id") if isinstance(fact, dict) else None
    return fact_id if isinstance(fact_id, str) and fact_id else None


def _clock_of(raw: Any) -> str | None:  # noqa: ANN401 - any JSON
    fact = raw.get("fact", raw) if isinstance(raw, dict) else None
    clock = fact.get("hlc") if isinstance(fact, dict) else None
    return clock if isinstance(clock, str) and _POSITION.fullmatch(clock) else None
