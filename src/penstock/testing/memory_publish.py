"""Memory twins of the doors of publication: the same behaviour in one process, without files."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import UnknownVersion
from penstock.events import Version
from penstock.facts import Fact
from penstock.learn.block import digest
from penstock.learn.interface import Block, State
from penstock.publish.interface import Progress, Receipt


class MemoryLiveWeights:
    """Live weights and their reader in one object."""

    def __init__(self) -> None:
        self._block: Block | None = None
        self._progress = Progress()
        self._share = 0.0
        self._beside: MemoryLiveWeights | None = None

    def publish(self, block: Block, progress: Progress) -> None:
        self._block, self._progress = block, progress

    def try_out(self, block: Block | None, share: float) -> None:
        self._share = 0.0 if block is None else share
        if block is not None:
            self._beside = self._beside or MemoryLiveWeights()
            self._beside.publish(block, Progress())

    def share(self) -> float:
        return self._share

    def beside(self) -> MemoryLiveWeights:
        self._beside = self._beside or MemoryLiveWeights()
        return self._beside

    def report(self, progress: Progress) -> None:
        self._progress = progress

    def version(self) -> Version:
        return Version(0) if self._block is None else self._block.head.version

    def block(self) -> Block | None:
        return self._block

    def progress(self) -> Progress:
        return self._progress

    def silence_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing is held."""


class MemorySnapshots:
    """Materialised versions in a dictionary."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._blocks: dict[Version, Block] = {}
        self._states: dict[Version, State] = {}

    def put(self, block: Block, state: State | None = None) -> str:
        if self._blocks.setdefault(block.head.version, block) is block and state is not None:
            self._states[block.head.version] = state
        return digest(block)

    def get(self, version: Version) -> Block:
        try:
            return self._blocks[version]
        except KeyError:
            raise UnknownVersion(service=self._service, version=version) from None

    def state(self, version: Version) -> State:
        try:
            return self._states[version]
        except KeyError:
            raise UnknownVersion(service=self._service, version=version) from None

    def versions(self, *, with_state: bool = False) -> list[Version]:
        return sorted(self._states if with_state else self._blocks)

    def bytes(self) -> int:
        return sum(sum(array.nbytes for array in block.arrays.values()) for block in self._blocks.values())

    def bases(self) -> set[str]:
        return {block.head.base for block in self._blocks.values()} - {""}

    def remove(self, version: Version) -> None:
        self.get(version)
        del self._blocks[version]
        self._states.pop(version, None)


class MemoryReceipts:
    """Receipts and facts in lists; nothing is thinned."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._receipts: dict[Version, Receipt] = {}
        self._facts: list[Fact] = []

    def write(self, receipts: Sequence[Receipt], facts: Sequence[Fact]) -> None:
        for receipt in receipts:
            self._receipts.setdefault(receipt.version, receipt)
        self._facts.extend(fact for fact in facts if fact not in self._facts)

    def flush(self, durably: bool = False) -> None:
        """Everything is where it will stay."""

    def highest(self) -> Version:
        return max(self._receipts, default=Version(0))

    def receipt(self, version: Version) -> Receipt:
        try:
            return self._receipts[version]
        except KeyError:
            raise UnknownVersion(service=self._service, version=version, newest=self.highest()) from None

    def newest(self, limit: int, before: Version | None = None) -> list[Receipt]:
        chosen = [v for v in sorted(self._receipts, reverse=True) if before is None or v < before]
        return [self._receipts[version] for version in chosen[:limit]]

    def facts(self, limit: int, kinds: Sequence[str] = ()) -> list[Fact]:
        chosen = [fact for fact in self._facts if not kinds or type(fact).__struct_config__.tag in kinds]
        return sorted(chosen, key=lambda fact: -fact.at)[:limit]

    def close(self) -> None:
        """Nothing is held."""
