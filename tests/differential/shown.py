"""Rounds that are always played, so that what a run must have seen does not hang on chance."""

from __future__ import annotations

from tests.differential.drafts import GONE, Again, Content, Fresh, Junk, PageDraft, Put, Round

EVERY_DIFFERENCE = Round(
    pages=(
        PageDraft(
            (
                Fresh(Content(kind="number", value=42, as_served=True)),
                Fresh(Content(kind="number", value=7), acts=("number in a spelling of its own",)),
                Fresh(Content(kind="number", value=None)),
                Fresh(Content(kind="number", value=10**309)),
                Fresh(Content(scope="team")),
                Fresh(Content(scope="company")),
                Fresh(puts=(Put("fact", ("fact", "confidence"), "0.5"),)),
                Fresh(Content(clock="more digits")),
                Fresh(acts=("signature with line breaks",)),
                Fresh(acts=("a very long id",)),
                Fresh(acts=("another tenant",)),
                Fresh(Content(entity="nul:\x00")),
                Fresh(Content(entity="nul:\x00")),
            )
        ),
        PageDraft(
            (
                Fresh(Content(valid_until="2030-01-01T00:00:00Z")),
                Again(0, changed=(("valid_until", None),)),
                Again(0, changed=(("valid_until", "some day"),)),
                Again(0, acts=("content id of the other wire",)),
                Again(0, acts=("value changed on the way",)),
                Fresh(acts=("value changed on the way",)),
            )
        ),
        PageDraft((Again(2, changed=(("valid_until", None),)),), cursor="back"),
    ),
)
"""Everything that may differ does so here or in the next, whatever is drawn."""

KNOWN_AND_CHANGED = Round(
    pages=(
        PageDraft((Fresh(),)),
        PageDraft((Again(0, acts=("value changed on the way",)),)),
    ),
)
"""A known fact comes with another value, and in wire version 1 too the node takes note of it."""

EVERY_REFUSAL = Round(
    pages=(
        PageDraft(
            (
                Fresh(Content(valid_until="2030-01-01T00:00:00Z")),
                Fresh(Content(entity="key:b", interpret_as="instruction")),
            )
        ),
        PageDraft(
            (
                Again(1, changed=(("valid_until", None),)),
                Again(2, changed=(("entity", "key:another"),)),
                Junk(7),
                *(
                    Fresh(puts=(Put(*put),))
                    for put in (
                        ("entry", ("origin",), GONE),
                        ("fact", ("fact", "id"), GONE),
                        ("entry", ("fact", "cid"), GONE),
                        ("fact", ("fact", "timestamp"), 5),
                    )
                ),
                *(
                    Fresh(acts=(act,))
                    for act in (
                        "of another origin",
                        "signed by another key",
                        "scope not granted",
                        "tenant not granted",
                        "another tenant",
                        "value changed on the way",
                        "content id of the other wire",
                    )
                ),
                *(
                    Fresh(Content(**fields))
                    for fields in (
                        {"scope": "galaxy"},
                        {"scope": "team"},
                        {"kind": "number", "value": None},
                        {"interpret_as": "advice"},
                        {"clock": "too far ahead"},
                        {"clock": "too far behind"},
                    )
                ),
            )
        ),
    ),
    begun_again=True,
)
"""Every reason for which an entry is refused."""
