"""What came for one request: where its body begins, and whether more came than the answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stigmem_replicator.transport.framing import HEAD_BYTES_MAX, AnswerBytes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\nLink: x\n\n"


@given(st.sampled_from([b"", INTERIM, INTERIM * 3]), st.binary(max_size=9), st.data())
def test_it_does_not_matter_in_which_pieces_bytes_come(
    before: bytes, after: bytes, data: st.DataObject
) -> None:
    """Interim answers are passed over, and what follows a body of five bytes is counted."""
    sent = before + HEAD + b"hello" + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    answer = AnswerBytes()
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        answer.add(sent[start:end])
    assert answer.excess(5) == len(after)
    assert not answer.head_too_long


def test_a_head_byte_by_byte_is_searched_once() -> None:
    """The work grows with the bytes, however many pieces and interim answers they come in."""
    answer = AnswerBytes()
    for _ in range(HEAD_BYTES_MAX // len(INTERIM) // 2):
        answer.add(INTERIM)
    for number in range(len(HEAD)):
        answer.add(HEAD[number : number + 1])
    assert answer.excess(0) == 0


def test_a_head_without_an_end_is_too_long() -> None:
    for length, too_long in ((HEAD_BYTES_MAX, False), (HEAD_BYTES_MAX + 1, True)):
        answer = AnswerBytes()
        answer.add(b"x" * length)
        assert answer.head_too_long is too_long
        assert answer.excess(0) is None
