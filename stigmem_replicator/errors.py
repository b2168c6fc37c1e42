"""The closed set of failures.

Every failure that an operator can meet has one reason code here.  The code is the same word
in the log, the metric label, the table, the JSON output and the exit message.  This module
says what a code means and what to do; it does not decide when one applies, and it imports
nothing of ours.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit status of the command line, documented in the README."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    NO_SUCH_PEER = 4
    UNREACHABLE = 5
    REFUSED = 6
    ENTRIES_REJECTED = 7
    HELD_ELSEWHERE = 8
    BLOCKED = 9
    INTERRUPTED = 130


class Reason(StrEnum):
    """Machine-readable reason codes, grouped by what they stop."""

    # one entry: it becomes a dead letter, the stream goes on
    MALFORMED_ENTRY = "malformed_entry"
    MISSING_ORIGIN_BLOCK = "missing_origin_block"
    ID_REQUIRED = "id_required"
    CID_REQUIRED = "cid_required"
    MALFORMED_FACT = "malformed_fact"
    MALFORMED_TOMBSTONE = "malformed_tombstone"
    MALFORMED_REVOCATION = "malformed_revocation"
    ORIGIN_NOT_SENDER = "origin_not_sender"
    RELAY_SENDER_NOT_TRUSTED = "relay_sender_not_trusted"
    RELAY_UNSUPPORTED = "relay_unsupported"
    ORIGIN_SIG_INVALID = "origin_sig_invalid"
    ISSUER_SIG_INVALID = "issuer_sig_invalid"
    REVOCATION_AUTHORITY_MISMATCH = "revocation_authority_mismatch"
    WAITING_FOR_KEY = "waiting_for_key"
    WAITING_FOR_TOMBSTONE = "waiting_for_tombstone"
    SCOPE_NOT_IN_ORIGIN_GRANT = "scope_not_in_origin_grant"
    INVALID_SCOPE = "invalid_scope"
    SCOPE_NOT_PERMITTED = "scope_not_permitted"
    TENANT_NOT_IN_ORIGIN_GRANT = "tenant_not_in_origin_grant"
    TENANT_POLICY_UNSAFE = "tenant_policy_unsafe"
    CID_MISMATCH = "cid_mismatch"
    CID_LEGACY = "cid_legacy"
    NUMBER_NOT_REPRODUCIBLE = "number_not_reproducible"
    INVALID_INTERPRET_AS = "invalid_interpret_as"
    QUARANTINE_GARDEN_REQUIRED = "quarantine_garden_required"
    VALID_UNTIL_EXTENSION = "valid_until_extension"
    WIRE_ID_COLLISION = "wire_id_collision"
    HLC_SKEW = "hlc_skew"

    # one request: the page is asked for again after a wait
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    MALFORMED_PAGE = "malformed_page"
    PAGE_TOO_LARGE = "page_too_large"
    CURSOR_STALLED = "cursor_stalled"

    # one peer: an operator decides, the cursor stays
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    CAPABILITY_REQUIRED = "capability_required"
    UNSAFE_ADDRESS = "unsafe_address"
    SAN_MISMATCH = "san_mismatch"
    CERTIFICATE_INVALID = "certificate_invalid"
    TLS_FAILED = "tls_failed"
    UNEXPECTED_ANSWER = "unexpected_answer"
    WRONG_DIALECT = "wrong_dialect"
    ORIGIN_UNRESOLVABLE = "origin_unresolvable"
    KEY_CHANGED = "key_changed"
    REJECT_BURST = "reject_burst"
    HISTORY_TOO_OLD = "history_too_old"
    ENTRY_TOO_LARGE = "entry_too_large"
    DEAD_LETTERS_FULL = "dead_letters_full"
    PEER_NOT_ACTIVE = "peer_not_active"
    PEER_HELD = "peer_held"

    # this command or this machine
    UNEXPECTED = "unexpected"
    USAGE = "usage"
    UNKNOWN_PEER = "unknown_peer"
    AMBIGUOUS_PEER = "ambiguous_peer"
    CONFIGURATION_INVALID = "configuration_invalid"
    CHECKPOINT_INVALID = "checkpoint_invalid"
    FILE_FAILED = "file_failed"
    TRUST_MODE_UNSUPPORTED = "trust_mode_unsupported"
    NODE_NOT_INITIALISED = "node_not_initialised"
    DATABASE_MISSING = "database_missing"
    DATABASE_NOT_A_NODE = "database_not_a_node"
    DATABASE_UNSUPPORTED = "database_unsupported"
    SCHEMA_UNSUPPORTED = "schema_unsupported"
    OWN_SCHEMA_OUTDATED = "own_schema_outdated"
    DATABASE_LOCKED = "database_locked"
    DATABASE_FAILED = "database_failed"
    DATABASE_REPLACED = "database_replaced"
    DISK_LOW = "disk_low"
    LOCAL_DB = "local_db"


DATABASE_TROUBLE: Final = (
    Reason.DATABASE_MISSING,
    Reason.DATABASE_NOT_A_NODE,
    Reason.DATABASE_UNSUPPORTED,
    Reason.SCHEMA_UNSUPPORTED,
    Reason.OWN_SCHEMA_OUTDATED,
    Reason.DATABASE_LOCKED,
    Reason.DATABASE_FAILED,
    Reason.DATABASE_REPLACED,
    Reason.DISK_LOW,
)
"""What can be wrong with the node's database: no peer's doing, and none of the settings."""


class ReplicatorError(Exception):
    """A failure with a reason code, one plain sentence and, where there is one, what to do.

    ``message`` says what happened and where; ``hint`` says what to do.  Both are shown to the
    operator as they are, so neither may hold a secret.
    """

    exit_code = ExitCode.UNEXPECTED

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


class UsageError(ReplicatorError):
    """The command's words do not fit."""

    exit_code = ExitCode.USAGE


class LocalError(ReplicatorError):
    """Configuration or database of this machine cannot be used."""

    exit_code = ExitCode.CONFIGURATION


class UnknownPeerError(ReplicatorError):
    """No peer, more than one peer, or a peer that is not active."""

    exit_code = ExitCode.NO_SUCH_PEER


class TransientPeerError(ReplicatorError):
    """The peer did not give a usable answer; asking again later may help.

    ``retry_after_s`` is the least wait in seconds that the peer asked for, 0.0 when it asked
    for none.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(
        self, reason: Reason, message: str, *, hint: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(reason, message, hint=hint)
        self.retry_after_s = retry_after_s


class PeerRefusedError(ReplicatorError):
    """The peer refused us, or it is not who it should be."""

    exit_code = ExitCode.REFUSED


class PeerHeldError(ReplicatorError):
    """Another process works on this peer."""

    exit_code = ExitCode.HELD_ELSEWHERE


class PeerBlockedError(ReplicatorError):
    """Going on would lose or admit something wrong: an operator must decide."""

    exit_code = ExitCode.BLOCKED


def first_of(group: BaseExceptionGroup[ReplicatorError]) -> ReplicatorError:
    """Return the first failure of a group, however deep it lies."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ReplicatorError)  # noqa: S101 - of a group of nothing else
    return error
