"""What calls raise: one class a status code. All of them mean that the engine computes instead."""

from __future__ import annotations


class StemcacheError(Exception):
    """Base of all. `code` is gRPC's number; `blocks_loaded` is how far a load came before it failed."""

    code: int = 2
    blocks_loaded: int = 0


class InvalidArgument(StemcacheError, ValueError):
    """The caller's bug; the message names the value and what would be right."""

    code = 3


class DeadlineExceeded(StemcacheError, TimeoutError):
    """The call's time passed."""

    code = 4


class NotFound(StemcacheError, LookupError):
    """The block left since it was matched."""

    code = 5


class ResourceExhausted(StemcacheError):
    """A pool, a queue or staging is full."""

    code = 8


class FailedPrecondition(StemcacheError):
    """Model or layout differ from what the node knows, or the handle was used up."""

    code = 9


class Aborted(StemcacheError):
    """A holder restarted, or a lease ended in the middle of a read."""

    code = 10


class OutOfRange(StemcacheError):
    """Beyond what was matched or asked for."""

    code = 11


class Unimplemented(StemcacheError, NotImplementedError):
    """Not built in."""

    code = 12


class Internal(StemcacheError):
    """The node sent nonsense, or a bug of ours."""

    code = 13


class Unavailable(StemcacheError, ConnectionError):
    """No node answers."""

    code = 14


class DataLoss(StemcacheError):
    """A copy failed its proof; it is quarantined."""

    code = 15


_BY_CODE = {c.code: c for c in StemcacheError.__subclasses__()}


def of(code: int, message: str) -> StemcacheError:
    """The exception of a status code."""
    error = _BY_CODE.get(code, StemcacheError)(message)
    error.code = code
    return error
