"""CSV, Parquet and JSON lines as requests that are ready to be sent: each some rows, with ids that name file and row.

The file is never held as a whole. CSV and Parquet become Arrow batches in the service's types; JSON lines stay JSON.
Every fault names the file and the row, counted from 1 without the header.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from penstock.cli.columns import Columns
from penstock.client import ARROW, NDJSON
from penstock.errors import BadFile
from penstock.spec import Spec

Format = Literal["csv", "parquet", "jsonl"]
BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
BLOCK_BYTES = 1024**2
LINE_MAX_BYTES = 8 * 1024**2
MISSING = ["", "#N/A", "N/A", "NA", "NULL", "NaN", "nan", "null", "None"]
"""What a CSV file may have in the place of a missing number; texts and categories are missing only when empty."""
STDIN = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors write before UTF-8."""

_CSV_ROW = re.compile(r"Row #(\d+): ?(.*)", re.DOTALL)
_CSV_COLUMN = re.compile(r"In CSV column #(\d+)")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows to be sent in one request."""

    first: int
    """The row before the first of them, counted from 0: as many rows stand before this piece."""
    rows: int
    body: bytes
    media: str


@dataclass(slots=True)
class Source:
    """A file of rows."""

    path: str
    format: Format
    digest: str
    """Names the content, so that the ids of its rows are the same however often it is sent."""
    bytes_read: int = 0
    bytes_total: int | None = None
    _opened: list[BinaryIO] = field(default_factory=list)

    def share(self) -> float | None:
        """How much of it was read, 0 to 1, or None for a stream without an end."""
        return None if not self.bytes_total else min(1.0, self.bytes_read / self.bytes_total)

    def open(self) -> BinaryIO:
        """The bytes from the beginning, counted as they are read."""
        if self.path == STDIN:
            return _Counted(sys.stdin.buffer, self)  # type: ignore[return-value]
        return _Counted(Path(self.path).open("rb"), self)  # type: ignore[return-value]


class _Counted(io.RawIOBase):
    """A file that says how far it was read."""

    def __init__(self, file: BinaryIO, source: Source) -> None:
        self._file, self._source = file, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # One read of what is there: a stream is passed on as it comes.
        data = self._file.read1(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(data)] = data
        self._source.bytes_read += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()
        super().close()


def open_source(path: str, format: str | None) -> Source:
    """The file of this path, or stdin for ``-``. Raises BadFile and OSError."""
    if path == STDIN:
        if format == "parquet":
            raise BadFile("stdin", "Parquet is read from its end, which a stream does not have; save it first")
        return Source(path, format or "jsonl", "")  # type: ignore[arg-type]
    file = Path(path)
    known = format or BY_SUFFIX.get(file.suffix.lower())
    if known is None:
        raise BadFile(path, f"what a {file.suffix or 'file without an ending'} holds is not known; say --format")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        size = opened.tell()
    if size == 0:
        raise BadFile(path, "the file is empty")
    return Source(path, known, digest, bytes_total=size)  # type: ignore[arg-type]


def pieces(
    source: Source, spec: Spec, *, label: str | None, skip: Collection[str], rows: int, done: int
) -> Iterator[Piece]:
    """The rows behind the first ``done``, in requests of at most ``rows``. Raises BadFile when it comes to a fault."""
    if source.format == "jsonl":
        yield from _json_pieces(source, spec, label, skip, rows, done)
        return
    columns = Columns(source.path, spec, label, skip, source.digest, from_text=source.format == "csv")
    first = 0
    for batch in _csv_batches(source, columns) if source.format == "csv" else _parquet_batches(source, columns, rows):
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            if first + start + part.num_rows <= done:
                continue
            cut = max(0, done - first - start)
            part, row = part.slice(cut), first + start + cut
            yield Piece(row, part.num_rows, _ipc(columns.shaped(part, row)), ARROW)
        first += batch.num_rows
    if first == 0:
        raise BadFile(source.path, "the file has no rows")


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


# CSV and Parquet ------------------------------------------------------------------------------------------------------


def _csv_batches(source: Source, columns: Columns) -> Iterator[pa.RecordBatch]:
    # Blocks are cut here and each is parsed as a whole: the library's own streaming reader reads ahead in a thread,
    # which brings the process down when it ends while that thread waits for Python.
    delimiter = "\t" if source.path.endswith(".tsv") else ","
    with source.open() as file:
        blocks = _blocks(source.path, file)
        head, _, rest = next(blocks, b"").removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n").partition(b"\n")
        try:
            names = next(csv.reader([head.decode("utf-8").rstrip("\r")], delimiter=delimiter), [])
        except UnicodeDecodeError:
            raise BadFile(source.path, "the header is not UTF-8") from None
        columns.check(names)
        parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(column_types=columns.csv_types(names), null_values=MISSING)
        row = 0
        for block in itertools.chain([rest], blocks):
            read = pyarrow.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names)
            if not block.strip(b"\r\n"):
                continue
            try:
                table = pyarrow.csv.read_csv(pa.BufferReader(block), read, parse, convert)
            except pa.ArrowInvalid as error:
                raise _csv_fault(source.path, names, columns, str(error), row) from None
            yield from table.combine_chunks().to_batches()
            row += table.num_rows


def _blocks(path: str, file: BinaryIO) -> Iterator[bytes]:
    """The file in blocks of whole rows."""
    pending = b""
    while chunk := file.read(BLOCK_BYTES):
        pending += chunk
        if end := _end_of_rows(pending):
            yield pending[:end]
            pending = pending[end:]
        elif len(pending) > LINE_MAX_BYTES:
            raise BadFile(path, "a row of more than 8 MiB is no event; is a quote not closed?")
    if pending:
        yield pending


def _end_of_rows(block: bytes) -> int:
    """Where the last whole row ends: behind a line's end with an even number of quotes before it, since one between two
    quotes belongs to a value. 0 where no row is whole."""
    end = block.rfind(b"\n")
    quotes = block.count(b'"', 0, max(0, end))
    while end >= 0 and quotes % 2:
        # Behind the last quote every line's end is within the same value.
        earlier = block.rfind(b"\n", 0, block.rfind(b'"', 0, end))
        quotes -= block.count(b'"', max(0, earlier), end)
        end = earlier
    return end + 1


def _csv_fault(file: str, names: list[str], columns: Columns, message: str, before: int) -> BadFile:
    """What pyarrow says of a row, in the words of the file; so many rows stand before its block."""
    place, column = _CSV_ROW.search(message), _CSV_COLUMN.match(message)
    if place is None:
        return BadFile(file, message.partition("\n")[0])
    row, said = before + int(place[1]), place[2]
    if column is not None and int(column[1]) < len(names):
        name = names[int(column[1])]
        if value := said.partition("invalid value ")[2]:
            return BadFile(file, f"column {name!r} should hold {columns.wanted(name)}, not {value}", row=row)
        return BadFile(file, f"column {name!r} is not UTF-8" if "UTF8" in said else said, row=row)
    counts = re.match(r"Expected (\d+) columns, got (\d+)", said)
    return BadFile(file, f"has {counts[2]} values where the header has {counts[1]}" if counts else said, row=row)


def _parquet_batches(source: Source, columns: Columns, rows: int) -> Iterator[pa.RecordBatch]:
    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            columns.check(names)
            total = file.metadata.num_rows
            done = 0
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                done += batch.num_rows
                source.bytes_read = int((source.bytes_total or 0) * done / max(1, total))
                yield batch
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        reason = str(error).partition("\n")[0]
        raise BadFile(source.path, f"is no whole Parquet file: {reason}") from None


# JSON lines -----------------------------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode_into


def _json_pieces(
    source: Source, spec: Spec, label: str | None, skip: Collection[str], rows: int, done: int
) -> Iterator[Piece]:
    first, count, body = done, 0, bytearray()
    row = 0
    with source.open() as raw, io.BufferedReader(raw, BLOCK_BYTES) as lines:  # type: ignore[type-var]
        while line := lines.readline(LINE_MAX_BYTES + 1):
            if len(line) > LINE_MAX_BYTES:
                raise BadFile(source.path, "a line of more than 8 MiB is no event", row=row + 1)
            if row == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            row += 1
            if row <= done:
                continue
            try:
                event = _event(_decode(line), spec, label, skip)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadFile(source.path, f"is no JSON object: {error}", row=row) from None
            if source.digest:
                event.setdefault("id", f"{source.digest}-{row}")
            _encode(event, body, -1)
            body += b"\n"
            count += 1
            # A stream without an end is sent as it comes, not when a request is full.
            if count == rows or (source.path == STDIN and not lines.peek(1)):
                yield Piece(first, count, bytes(body), NDJSON)
                first, count, body = first + count, 0, bytearray()
    if count:
        yield Piece(first, count, bytes(body), NDJSON)
    if row == 0:
        raise BadFile(source.path, "the file has no rows")


def _event(row: dict[str, Any], spec: Spec, label: str | None, skip: Collection[str]) -> dict[str, Any]:
    """An event as the server takes it, from one or from a flat row."""
    if isinstance(row.get("features"), dict) and "features" not in spec.features:
        return row
    event: dict[str, Any] = {"features": row}
    for name in skip:
        row.pop(name, None)
    for name in ("id", "time", "source"):
        if row.get(name) is not None:
            event[name] = row.pop(name) if name != "id" else str(row.pop(name))
    subject = spec.subject_column
    if subject is not None and subject not in spec.features and row.get(subject) is not None:
        event["subject"] = str(row.pop(subject))
    for name in (label,) if label else (spec.label.name, "label"):
        if name in row:
            event["label"] = row.pop(name)
            break
    if "incumbent" in row and "incumbent" not in spec.features:
        event["incumbent"] = row.pop("incumbent")
    return event
