"""Every error that Penstock raises: its message, its hint, its HTTP status and its exit code.

The first line of a class's docstring is the message, formatted with the keyword arguments given. A caller who can act
on an error catches its class; everyone else prints ``str(error)`` and ``error.hint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class PenstockError(Exception):
    """{message}"""

    hint: ClassVar[str] = ""
    """What to do about it, or the next command; formatted like the message."""
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, unchanged."""
    status: ClassVar[int] = 500
    """The HTTP status with which the server answers."""
    exit_code: ClassVar[int] = 1
    """The exit code with which the command line ends."""

    def __init__(self, message: str = "", /, **details: object) -> None:
        self.details = {"message": message, **details} if message else details
        super().__init__(message)

    def __str__(self) -> str:
        return (self.__doc__ or "").partition("\n")[0].format_map(self.details)

    @property
    def advice(self) -> str:
        """The hint, with the error's details filled in."""
        return self.hint.format_map(self.details)


# What the user wrote -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong in a service file."""

    file: str
    line: int = 0
    """Counted from 1; 0 where there is no line, as for a missing file or a service described in Python."""
    column: int = 0
    path: str = ""
    """The setting at fault, such as ``learn.half_lives``."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class SpecInvalid(PenstockError):
    """{message}"""

    hint = "Correct what is named above, then run: penstock check {files}"
    status = 422
    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = [str(fault) for fault in self.faults[:100]]
        if more := len(self.faults) - len(shown):
            shown.append(f"... and {more} more")
        files = " ".join(dict.fromkeys(fault.file for fault in self.faults))
        super().__init__("\n".join(shown), files=files)


class SpecChanged(PenstockError):
    """{file} no longer describes the service in {folder}: {what} changed"""

    hint = "Undo the change, give the service another name, or start with another --data folder."
    exit_code = 2


class SettingsUntried(PenstockError):
    """{file} has {what}, which nobody has tried beside what the service in {folder} answers with"""

    hint = (
        "Start it with the settings in force ({in_force}), and then have these tried: "
        "penstock challenge {file} --data {data}"
    )
    exit_code = 2


class NotChallenging(PenstockError):
    """{file} cannot be tried beside the service in {folder}: {reason}"""

    hint = "What can be tried are {settings}. For all else give the service in the file another name, and start both."
    exit_code = 2


class BadEvent(PenstockError):
    """{message}"""

    hint = "Nothing from this request was accepted: correct it and send it again."
    status = 422
    exit_code = 2

    def __init__(
        self, message: str, /, *, pointer: str = "", row: int | None = None, others: tuple[BadEvent, ...] = ()
    ) -> None:
        self.pointer = pointer
        """A JSON pointer to the field at fault, such as ``/3/features/price``."""
        self.row = row
        self.others = others
        """Further faults of the same request, as far as they were looked for."""
        super().__init__(message)


class Malformed(BadEvent):
    """{message}"""

    status = 400


class ExtraMissing(PenstockError):
    """{what} needs the package {package}, which is not installed"""

    hint = "Install it with: pip install 'penstock[{extra}]'"
    exit_code = 2


class BadFile(PenstockError):
    """{file}{place}: {reason}"""

    def __init__(self, file: object, reason: str, *, row: int | None = None) -> None:
        super().__init__("", file=file, place="" if row is None else f", row {row:,}", reason=reason)


class UnsupportedMedia(PenstockError):
    """Content type {media!r} is not understood here"""

    hint = "Send application/json, application/x-ndjson or application/vnd.apache.arrow.stream."
    status = 415


class TooLarge(PenstockError):
    """The {what} is larger than {limit}"""

    hint = "Split it into smaller requests, or raise the limit in the service file."
    status = 413


class UnknownService(PenstockError):
    """There is no service {name!r} here"""

    hint = "The services here: {known}."
    status = 404


class NoSuchPage(PenstockError):
    """There is nothing at {path}"""

    hint = "Everything that this server answers is described at /openapi.json."
    status = 404


class MethodNotAllowed(PenstockError):
    """{path} does not answer {method}"""

    hint = "Use {allowed}."
    status = 405


class TooSlow(PenstockError):
    """The request's body did not arrive within {seconds:g} seconds"""

    hint = "Send smaller requests, or look at the network between here and there."
    retryable = True
    status = 408


class UnknownVersion(PenstockError):
    """Service {service!r} has no version {version}{newest}"""

    hint = "List them with: penstock versions {service}"
    status = 404

    def __init__(self, *, service: str, version: int, newest: int = 0) -> None:
        told = f"; the newest is {newest}" if newest else ""
        super().__init__(service=service, version=version, newest=told)


class NotSetAside(PenstockError):
    """No event {id} of service {service!r} is set aside"""

    hint = "`penstock quarantine list` shows those that are; one that was released or dropped is not any more."
    status = 404


class OrderRefused(PenstockError):
    """{reason}"""

    hint = "Nothing was changed. What is served now: penstock status {service}"


class NotObeyed(PenstockError):
    """The learner of {service} has not answered within {wait_s} s; the order was {became}"""

    hint = "How it is: penstock status {service}"
    exit_code = 3


class UnknownEvent(PenstockError):
    """The log of service {service!r} has no event with the id {id!r} ({kept})"""

    hint = "Records of predictions may be lost in a crash, and old events are removed by retention."
    status = 404


class UnknownMachine(PenstockError):
    """The price list has no machine {machine}"""

    hint = "`penstock prices` shows those that it has; `per_hour` in the budget file says what yours costs."
    exit_code = 2


class OverBudget(PenstockError):
    """Service {service!r} answers nothing more for now: {why}"""

    hint = (
        "It was asked to stop there (budget.at_limit). More money: penstock budget override {service} --per-day AMOUNT"
    )
    status = 503
    exit_code = 4


class MeterFailed(PenstockError):
    """{source} does not say what was spent: {reason}"""

    hint = (
        "What it said last goes on counting, with what has likely been spent since. After `blind_after_s` of the "
        "budget file learning pauses until it answers."
    )
    retryable = True


class LedgerUnavailable(PenstockError):
    """What was spent cannot be read or written in {file}: {reason}"""

    hint = "Nothing is counted twice, whatever happened. Free disk space, or move the file away to begin a new one."


# What the machine did ------------------------------------------------------------------------------------------------


class LogUnavailable(PenstockError):
    """The event log in {folder} does not accept events: {reason}"""

    hint = "Nothing from this request was acknowledged. Free disk space or replace the disk, then restart the server."
    retryable = True
    status = 503

    def __init__(self, *, folder: object, reason: object, lasting: bool = False) -> None:
        self.lasting = lasting
        """Whether it stays so until the log is opened again, as after a failed fsync."""
        super().__init__("", folder=folder, reason=reason)


class LogCorrupt(PenstockError):
    """The event log is damaged in {file} at byte {byte}: {reason}{place}"""

    hint = "Nothing was skipped or changed. Look at all of it with `penstock fsck`, or restore the file from a copy."

    def __init__(
        self, *, file: object, byte: int, reason: str, partition: int | None = None, offset: int | None = None
    ) -> None:
        self.byte, self.reason, self.partition, self.offset = byte, reason, partition, offset
        place = "" if partition is None else f" (partition {partition}, offset {offset})"
        super().__init__("", file=file, byte=byte, reason=reason, place=place)


class OffsetGone(PenstockError):
    """Partition {partition} starts at offset {first}; offset {offset} was removed by retention"""

    hint = "Keep more of the log: budget.log_max_bytes and budget.log_max_age_s in the service file."


class Overloaded(PenstockError):
    """The service takes no more events for the moment: {reason}"""

    hint = "Wait a little and send the same request again."
    retryable = True
    status = 503


class NotReady(PenstockError):
    """Service {service!r} has not published its first version yet"""

    hint = "It starts within seconds of `penstock up`; ask again."
    retryable = True
    status = 503
    exit_code = 3


class FolderInUse(PenstockError):
    """{folder} is in use by process {pid}"""

    hint = "Stop that process first, or choose another folder with --data."
    exit_code = 1


class FolderUnusable(PenstockError):
    """The data folder {folder} cannot be used: {reason}"""

    hint = "Choose another folder with --data."


class ArchiveExists(PenstockError):
    """There is a file {file} already"""

    hint = "Give the archive another name, or remove that file first."


class ArchiveUnusable(PenstockError):
    """The archive {file} cannot be imported: {reason}"""

    hint = "Nothing was imported. Copy the file again, or export the service again."


class ArchiveForeign(PenstockError):
    """The archive {file} is not for this version of Penstock: {reason}"""

    hint = "Nothing was imported. It was written by Penstock {penstock}; import it with that one."


class ServiceExists(PenstockError):
    """{folder} is there already, and a service {name!r} can only be put where there is none"""

    hint = "Choose another folder with --data, or move that one away."


class CannotListen(PenstockError):
    """Nothing can be served at {address}: {reason}"""

    hint = "Choose another port with --port; --port 0 takes a free one."


class CheckpointDamaged(PenstockError):
    """The checkpoint {folder} cannot be read: {reason}"""


class StepsUnavailable(PenstockError):
    """The step journal in {folder} cannot be written: {reason}"""

    hint = "Nothing was exposed that is not recorded. Free disk space or replace the disk; it starts by itself."
    retryable = True


class StepsCorrupt(PenstockError):
    """The step journal is damaged in {file} at byte {byte}: {reason}"""

    hint = "Nothing was skipped or changed. Restore the file from a copy."


class SnapshotDamaged(PenstockError):
    """The snapshot {folder} is not what was written: {reason}"""

    hint = "Remove the folder; the version can be rebuilt from the log as long as the log reaches back to it."


class ReceiptsUnavailable(PenstockError):
    """The receipts in {file} cannot be read or written: {reason}"""

    hint = "Move the file away and start again: what the step journal still holds is filled in anew."


class LiveWeightsDamaged(PenstockError):
    """The live weights in {file} cannot be used: {reason}"""

    hint = "Remove the file and start the learner again; it fills it anew."


class BlockDamaged(PenstockError):
    """A block of weights cannot be used: {reason}"""

    hint = "What is served stays; the next version that the learner publishes replaces this block."


class BaseMissing(PenstockError):
    """The base {id} cannot be used: {reason}"""

    hint = "Bases stand in the service's folder under `bases`; restore it from a backup, or consolidate anew."
    status = 503


class TrainingFailed(PenstockError):
    """No base came of training: {reason}"""

    hint = "What is served stays as it was; the next consolidation begins anew."


class LibraryMissing(PenstockError):
    """{purpose} needs {library}, which is not installed"""

    hint = "pip install 'penstock[{extra}]'"


class ReplayDiverged(PenstockError):
    """Replaying step {step} gave another result than the first time: {what}"""

    hint = "The model's state cannot be trusted to be a function of the log; report this with the folder."


class NotAmendable(PenstockError):
    """The event at offset {offset} of partition {partition} cannot be amended: {reason}"""

    hint = "Examples and feedback have labels that can be replaced; any event can be left out."


class UnknownSubject(PenstockError):
    """The log of service {service!r} has no event of this {what}"""

    hint = (
        "Names are compared letter by letter. An event says whose it is in its field `subject`, or in the column that "
        "`subject` in the service file names; --id removes the events of one id."
    )
    status = 404


class NotErasable(PenstockError):
    """The events cannot be erased: {reason}"""

    hint = "Nothing was changed."


class ErasureUnfinished(PenstockError):
    """An erasure of service {service!r} was interrupted after its last step had begun"""

    hint = "It takes a moment: penstock erase {service} --data {data}, or start the service."


class Unreachable(PenstockError):
    """No server answers at {address}: {reason}"""

    hint = "Start one with: penstock up service.yaml"
    retryable = True
    exit_code = 3


class Refused(PenstockError):
    """{message}"""

    hint = "{advice}"

    def __init__(self, message: str, /, *, status: int, advice: str = "", problem: Mapping[str, object]) -> None:
        # What is spent is spent for hours: nothing is gained by trying again at once.
        is_spent = problem.get("type") == "urn:penstock:problem:over-budget"
        self.status = status  # type: ignore[misc]
        self.retryable = status in (429, 503) and not is_spent  # type: ignore[misc]
        self.exit_code = OverBudget.exit_code if is_spent else 3 if status == 503 else 1  # type: ignore[misc]
        self.problem = dict(problem)
        """The server's whole problem document (RFC 9457)."""
        super().__init__(message, advice=advice)
