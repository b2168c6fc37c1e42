"""Every attack that an answer can be, by name, and what it is called when it is met.

What is done about an attack is asserted in tests/e2e/test_hostile.py.  An attack on the
connection itself is in tests/e2e/test_who_answers.py and test_names.py, and spoiled entries are
in poison.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.pages import hostility, misbehaviour
from tests.pages.hostility import (
    answer_bytes,
    changed,
    chunked,
    dripping,
    encoded,
    never_ending,
    raw,
    raw_to_the_end,
    replacing,
    rewritten,
)
from tests.pages.server import Behaviour


@dataclass(frozen=True, slots=True)
class Attack:
    """A name, what is done, and the reason, exit code and state of the peer that it ends in."""

    name: str
    behaviour: Behaviour
    reason: str
    code: int = 5
    state: str = "backing_off"


def _malformed(name: str, behaviour: Behaviour) -> Attack:
    return Attack(name, behaviour, "malformed_page")


def _headed(lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + lines


def _in_chunks(body: bytes) -> bytes:
    return answer_bytes(chunked(body), Transfer_Encoding="chunked")


_SMALL = b"1;x\r\n \r\n"
"""A chunk of one byte with an extension."""

HEADS = [
    _malformed("one header without an end", never_ending(_headed(b"X-Endless: "), b"x")),
    _malformed("headers without an end", never_ending(_headed(b""), b"X-Endless: again\r\n")),
    _malformed("a status line without an end", never_ending(b"HTTP/1.1 200 ", b"OK")),
    _malformed("interim answers without an end", never_ending(b"", b"HTTP/1.1 100 Go\r\n\r\n")),
    Attack("an answer without a head", raw_to_the_end(lambda body: body), "unreachable"),
    _malformed("another protocol", raw(lambda _: b"SSH-2.0-OpenSSH_9.9\r\n\r\n")),
    _malformed(
        "an upgrade that nobody asked for",
        raw(lambda _: b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    ),
    _malformed("a NUL in a header", raw(lambda body: answer_bytes(body, X_Nul="\x00"))),
]

LENGTHS = [
    _malformed("more after the answer", raw(lambda body: answer_bytes(body) + b"more")),
    _malformed(
        "a length short of the body",
        raw(lambda body: answer_bytes(body, Content_Length=str(len(body) - 1))),
    ),
    Attack(
        "a length beyond the body",
        raw_to_the_end(lambda body: answer_bytes(body, Content_Length=str(len(body) + 1))),
        "unreachable",
    ),
    _malformed(
        "two lengths",
        raw(lambda body: _headed(b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n") + body),
    ),
    _malformed("a negative length", raw(lambda body: answer_bytes(body, Content_Length="-1"))),
    _malformed("a length of words", raw(lambda body: answer_bytes(body, Content_Length="many"))),
    _malformed(
        "a length of a thousand digits",
        raw(lambda body: answer_bytes(body, Content_Length="1" * 1000)),
    ),
]

CHUNKS = [
    _malformed(
        "a chunk size that is no number",
        raw(lambda body: answer_bytes(b"zz\r\n" + body, Transfer_Encoding="chunked")),
    ),
    _malformed(
        "a negative chunk size",
        raw(lambda body: answer_bytes(b"-1\r\n" + body, Transfer_Encoding="chunked")),
    ),
    _malformed(
        "a chunk longer than it says",
        raw(lambda body: answer_bytes(b"2\r\n" + body, Transfer_Encoding="chunked")),
    ),
    _malformed(
        "a chunk extension without an end",
        never_ending(_headed(b"Transfer-Encoding: chunked\r\n\r\n1;"), b"x"),
    ),
    _malformed(
        "small chunks, each extended at length, without an end",
        never_ending(
            _headed(b"Transfer-Encoding: chunked\r\n\r\n"), b"1;" + b"x" * 9_999 + b"\r\n \r\n"
        ),
    ),
    _malformed(
        "trailers without an end",
        never_ending(_headed(b"Transfer-Encoding: chunked\r\n\r\n0\r\n"), b"X-Endless: again\r\n"),
    ),
    Attack(
        "chunks that are cut off",
        raw_to_the_end(lambda body: _in_chunks(body)[:-5]),
        "unreachable",
    ),
    _malformed(
        "a transfer encoding that nobody knows",
        raw(lambda body: answer_bytes(body, Transfer_Encoding="gzip")),
    ),
    _malformed(
        "a transfer encoding inside another",
        raw(lambda body: answer_bytes(chunked(body), Transfer_Encoding="gzip, chunked")),
    ),
]


def hidden_answer(body: bytes) -> bytes:
    """A page and a forged answer after it, for who looks for the end of the head by CR LF alone.

    The interim answer ends with bare line feeds, so that the first CR LF CR LF is the end of the
    real head, and the next one lies in the body: as far in it as the forged answer is long.
    """
    forged = hostility.forged_answer()
    gap = b" " * (len(forged) - 4) + b"\r\n\r\n"
    return b"HTTP/1.1 103 Soon\n\n" + answer_bytes(gap + body) + forged


def _bare(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\nContent-Length: %d\n\n%s" % (len(body), body)


POISON = [
    _malformed(
        "a second answer at once", raw(lambda body: answer_bytes(body) + hostility.forged_answer())
    ),
    _malformed(
        "a second answer behind interim ones",
        raw(
            lambda body: (
                b"HTTP/1.1 103 Soon\r\n\r\n" + answer_bytes(body) + hostility.forged_answer()
            )
        ),
    ),
    _malformed("a second answer that fills a gap in the count", raw(hidden_answer)),
]

HARMLESS: dict[str, Behaviour] = {
    "a second answer behind chunks": raw(lambda body: _in_chunks(body) + hostility.forged_answer()),
    "a second answer behind bare line feeds": raw(
        lambda body: _bare(body) + hostility.forged_answer()
    ),
    "chunks beside a length": raw(
        lambda body: answer_bytes(chunked(body), Transfer_Encoding="chunked", Content_Length="2")
    ),
}
"""Answers that are good pages, but whose connection must not be used again."""

ENCODINGS = [
    _malformed("gzip, unasked", misbehaviour.gzipped),
    _malformed("a gzip bomb", encoded("gzip", lambda _: hostility.bomb())),
    _malformed("deflate, unasked", encoded("deflate", hostility.deflated)),
    _malformed("brotli, unasked", encoded("br", lambda body: body)),
    _malformed("zstd, unasked", encoded("zstd", lambda body: body)),
    _malformed("gzip twice", encoded("gzip, gzip", lambda _: hostility.bomb())),
    _malformed("gzip after identity", encoded("identity, gzip", lambda _: hostility.bomb())),
]

DOCUMENTS = [
    _malformed("lists nested too deeply", misbehaviour.text(b"[" * 100_000)),
    _malformed("objects nested too deeply", misbehaviour.text(b'{"a":' * 100_000)),
    _malformed(
        "a page nested too deeply",
        replacing(b'"facts": [', b'"deep": ' + b"[" * 9_000 + b"]" * 9_000 + b', "facts": ['),
    ),
    _malformed("NaN", replacing(b'"confidence": 1.0', b'"confidence": NaN')),
    _malformed("Infinity", replacing(b'"confidence": 1.0', b'"confidence": Infinity')),
    _malformed("-Infinity beside the entries", replacing(b'"v": 2', b'"w": -Infinity, "v": 2')),
    _malformed("two cursors", replacing(b'"has_more"', b'"cursor": "9.0", "has_more"')),
    _malformed("two lists of facts", replacing(b'"has_more"', b'"facts": [], "has_more"')),
    _malformed("two entities in a fact", replacing(b'"entity"', b'"entity": "other", "entity"')),
    _malformed("bytes that are not UTF-8", replacing(b"pages:", b"pages\xff:")),
    _malformed("UTF-8 that is cut off", rewritten(lambda body: body[:-1] + b'\xc3"}')),
    _malformed(
        "a lone surrogate in the cursor", changed(lambda page: page.update(cursor="9\ud800"))
    ),
    _malformed("a NUL in the cursor", changed(lambda page: page.update(cursor="9\x00"))),
    _malformed("a cursor without an end", changed(lambda page: page.update(cursor="9" * 9_999))),
    _malformed("a whole number for a truth", changed(lambda page: page.update(has_more=1))),
    _malformed("two pages in one", rewritten(lambda body: body + body)),
    _malformed("half a page", misbehaviour.truncated),
    _malformed("more entries than were asked for", misbehaviour.greedy),
]

BROKEN_OFF = [
    Attack("a page cut off", misbehaviour.cut_off, "unreachable"),
    Attack("a door slammed", misbehaviour.slammed, "unreachable"),
]

ENDLESS = [
    Attack(name, behaviour, "entry_too_large", 9, "blocked")
    for name, behaviour in [
        ("a body without an end, in chunks", misbehaviour.endless),
        ("a body without an end or length", never_ending(_headed(b"\r\n"), b" " * 999)),
        (
            "a body as long as it says, which is long",
            never_ending(_headed(b"Content-Length: 99999999999\r\n\r\n"), b" " * 999),
        ),
    ]
]

REDIRECTS = [
    Attack(name, misbehaviour.redirect(location), "unexpected_answer", 6, "blocked")
    for name, location in (
        ("a redirect to localhost", "http://localhost:1/"),
        ("a redirect to a file", "file:///etc/passwd"),
        ("a redirect to the metadata service", "http://169.254.169.254/latest/meta-data/"),
        ("a redirect to nothing", ""),
    )
]

SLOW = [
    Attack(name, behaviour, "timeout")
    for name, behaviour in [
        ("a body that drips", misbehaviour.drip),
        ("headers that drip", dripping(lambda body: answer_bytes(body, X_Slow="x" * 99))),
        (
            "interim answers that drip",
            dripping(lambda _: b"HTTP/1.1 103 Soon\r\n\r\n" * 99),
        ),
        (
            "small chunks that drip",
            dripping(lambda _: _headed(b"Transfer-Encoding: chunked\r\n\r\n") + _SMALL * 99),
        ),
        ("silence in place of an answer", misbehaviour.hang),
        (
            "a length beyond the body, and silence",
            raw(lambda body: answer_bytes(body, Content_Length=str(len(body) + 1))),
        ),
    ]
]

BROKEN = [*HEADS, *LENGTHS, *CHUNKS, *POISON, *ENCODINGS, *BROKEN_OFF]
"""Answers after which the connection cannot be trusted; those of DOCUMENTS are good HTTP."""
