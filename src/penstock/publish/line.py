"""The line of versions: which block is served, which is known to be good, which is on probation, and where each leads
back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Position, Version
from penstock.gate.interface import Verdict
from penstock.join.interface import Amendment
from penstock.learn.block import pack, unpack
from penstock.learn.correctable import Correctable, Made
from penstock.learn.interface import Block, Learned, Predictor, State
from penstock.learn.lately import LearnedLately
from penstock.learn.learner import Learner
from penstock.learn.quarantine import Aside
from penstock.learn.withdrawn import REMEMBERED_MAX, Withdrawn, from_values, to_values
from penstock.spec import ClassName

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A version that can be gone back to: what was served, and the model's state from which learning goes on."""

    block: Block
    model: State
    learned: int = -1
    """How many steps the model had learned, as `Correctable` counts them; -1 where that is not known."""

    def save(self, name: str) -> tuple[dict[str, Any], Arrays]:
        """Plain values, and arrays whose names begin with ``name``."""
        arrays = {f"{name}/model/{key}": array for key, array in self.model.arrays.items()}
        return self.model.values, {**arrays, f"{name}/block": _packed(self.block)}

    @classmethod
    def load(cls, name: str, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]], learned: int) -> Kept:
        block = unpack(arrays[f"{name}/block"].tobytes())
        return cls(block, cls.state(f"{name}/model", values, arrays), learned)

    @staticmethod
    def state(name: str, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> State:
        """The model's state whose arrays' names begin with ``name``."""
        prefix = f"{name}/"
        return State(values, {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)})


class Line:
    """Follows the gate's verdicts in memory, and tells the learner whom to score."""

    def __init__(
        self,
        learner: Learner,
        predictor: Callable[[Block], Predictor],
        *,
        restore: bool,
        lately_max: int,
        corrected_within: int,
    ) -> None:
        """``lately_max``: how many events are learned again at most where some are taken out; ``corrected_within``: how
        many of the newest can be corrected."""
        self._learner = learner
        self._lately = LearnedLately(lately_max)
        self._correctable = Correctable(corrected_within)
        self._predictor = predictor
        self._restore = restore
        """Whether learning goes on from the restored version's state after a rollback."""
        self._block: Block | None = None
        self._beginning: Kept | None = None
        self._good: Kept | None = None
        self._probation: Kept | None = None
        self._classes: tuple[ClassName, ...] = ()
        self._scored: tuple[Kept | None, Kept | None] = (None, None)
        self._answering: tuple[Block, Predictor] | None = None
        learner.answering = self._answer
        self._withdrawn: list[Withdrawn] = []
        self._settled: Position = {}
        """Where the newest rollback by hand stood: what was withdrawn up to there is never learned again."""

    @property
    def block(self) -> Block:
        """What is served."""
        assert self._block is not None, "nothing is served before the start"
        return self._block

    @property
    def good_block(self) -> Block | None:
        """Of the last known good version; None while there is none."""
        return None if self._good is None else self._good.block

    @property
    def base(self) -> str:
        """Id of the base of what is served; empty without one, and before the start."""
        return "" if self._block is None else self._block.head.base

    def bases(self) -> set[str]:
        """Ids of the bases of all that is kept."""
        kept = [one.block.head.base for _, one in self._all_kept() if one is not None]
        return {self.base, *kept}

    def begin(self, version: Version) -> Block:
        """The first version, of this number: the model as it is before the first event."""
        self._block = self._freeze(version)
        self._beginning = Kept(self._block, self._learner.model.save())
        self._classes = self._block.head.classes
        self._correctable.begin(self._learner.model)
        return self._block

    def learned(self, batch: Batch, *, vouched: bool) -> int:
        """These events were learned with the step that is judged now; with ``vouched`` somebody has released them.
        Gives how many events waited to be corrected and are too long ago now."""
        self._lately.add(batch, vouched=vouched)
        return self._correctable.learned(batch, self._learner.model)

    def hear(self, said: Sequence[Amendment]) -> int:
        """Labels of events that were learned are other ones now. Gives how many are of events too long ago."""
        self._lately.relabel({(partition, offset): label for partition, offset, label in said})
        return self._correctable.hear(said)

    @property
    def wrong(self) -> int:
        """Events that the model has learned with labels that are other ones now."""
        return self._correctable.wrong

    def correct(self, version: Version) -> tuple[Made, Block | None]:
        """Make the model as if all labels had been at first what they are now, and so what can be gone back to, where
        it had learned any of them; ``version`` being the newest, the block to publish, if updates are not held."""
        kept = [one for one in (self._good, self._probation) if one is not None]
        made = self._correctable.make_good(self._learner.model, self._learner.features, [one.learned for one in kept])
        # What was served of them stays what it was; where learning goes on from them, it goes on without the mistakes.
        self._good, self._probation = (
            one and replace(one, model=made.states.get(one.learned, one.model)) for one in (self._good, self._probation)
        )
        if not made.is_finite and self._learner.served is None:
            # The next step's guard goes back; until then what was served stays.
            self._learner.served = self._predictor(self.block)
        if self._learner.served is not None:
            return made, None
        self._block = self._freeze(Version(version + 1))
        self._classes = self._block.head.classes
        return made, self._block

    def take_out(self, verdict: Verdict) -> tuple[Aside, ...]:
        """Make the model as if what the verdict's sources sent since the last known good version had never been
        learned: its state, and the events of all others again. Returns what they sent."""
        if self._good is None:
            return ()
        gone = self._lately.without(verdict.take_out, verdict.reason, self._learner.log_time)
        self._learner.model.load(copy.deepcopy(self._good.model))
        for batch in self._lately.again(self._learner.features):
            self._learner.model.learn(batch)
        self._correctable.begin(self._learner.model)
        # What a rollback has withdrawn since then is learned again, too: it had fallen to these sources' doings.
        start = dict(self._good.block.head.position)
        self._withdrawn = [span for span in self._withdrawn if span[0] != start or self._is_settled(span)]
        return gone

    def versions(self) -> list[Version]:
        """Those that are held in memory to be gone back to."""
        return [kept.block.head.version for _, kept in self._all_kept() if kept is not None]

    def kept(self, version: Version) -> Kept | None:
        """This version, where it is one of those that are held in memory."""
        return next((kept for _, kept in self._all_kept() if kept and kept.block.head.version == version), None)

    @property
    def good(self) -> Version | None:
        """The last known good version; None before there is one."""
        return None if self._good is None else self._good.block.head.version

    @property
    def state(self) -> State | None:
        """The model's state as what is served has it; None where the model has learned more than that."""
        return self._learner.model.save() if self._learner.served is None else None

    def vouch(self, kept: Kept) -> None:
        """Somebody says that this version is good, and that what came after it is not."""
        self._good = kept
        self._settled = dict(self._learner.position)
        self._lately.begin_anew()

    def follow(self, verdict: Verdict, version: Version) -> tuple[Block | None, Version | None]:
        """Do what the verdict says, ``version`` being the newest that there ever was: the block to publish, and the
        version that it restores."""
        self._correctable.follow(self._learner.model)
        if verdict.good and self._probation is not None:
            self._good, self._probation = self._probation, None
            self._lately.become_good()
        if verdict.action == "hold":
            if self._learner.served is None:
                self._learner.served = self._predictor(self.block)
            self._probation = None
            block, restored = None, None
        elif verdict.action == "publish":
            block, restored = self._freeze(Version(version + 1)), None
            self._learner.served = None
            self._lately.resume()
            if verdict.probation:
                self._probation = Kept(block, self._learner.model.save(), self._correctable.count)
                self._lately.begin_probation()
        else:
            block, restored = self._go_back(Version(version + 1))
        self._block = block or self.block
        if self._learner.served is None:
            self._classes = self._block.head.classes
        self._tell_learner()
        return block, restored

    def classes_before(self, learned: Learned) -> tuple[ClassName, ...]:
        """The names of the columns of these probabilities. Classes are only ever added, so names that
        came with the step itself do no harm."""
        probabilities = learned.predictions.probabilities
        if probabilities is not None and probabilities.shape[1] > len(self._classes):
            # Classes that came while updates were held back are in no block that was frozen.
            self._classes = self._freeze(self.block.head.version).head.classes
        return self._classes

    def needed(self) -> Position:
        """The oldest offsets that learning the latest steps again would read."""
        lately, correctable = self._lately.needed(), self._correctable.needed()
        return lately | {p: min(offset, lately.get(p, offset)) for p, offset in correctable.items()}

    def save(self) -> tuple[dict[str, Any], Arrays]:
        """Plain values, and arrays."""
        values: dict[str, Any] = {
            "is_learners_own": self._learner.served is None,
            "classes": list(self._classes),
            "withdrawn": to_values(self._withdrawn),
            "lately": self._lately.save(),
        }
        if self._settled:
            values["settled"] = sorted(self._settled.items())
        arrays = {"served/block": _packed(self.block)}
        for name, kept in self._all_kept():
            if kept is not None:
                values[name], more = kept.save(name)
                arrays.update(more)
        values["learned"] = {name: kept.learned for name, kept in self._all_kept() if kept is not None}
        values["correctable"], more = self._correctable.save()
        arrays |= {f"correctable/{name}": array for name, array in more.items()}
        return values, arrays

    def load(self, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._block = unpack(arrays["served/block"].tobytes())
        self._beginning, self._good, self._probation = (
            Kept.load(name, values[name], arrays, values.get("learned", {}).get(name, -1)) if name in values else None
            for name, _ in self._all_kept()
        )
        self._correctable.load(
            values.get("correctable", {}), Kept.state("correctable", {}, arrays).arrays, self._learner.model
        )
        self._classes = tuple(values["classes"])
        self._withdrawn = from_values(values.get("withdrawn", ()))
        self._settled = {Partition(p): Offset(offset) for p, offset in values.get("settled", ())}
        if "lately" in values:
            self._lately.load(values["lately"])
        self._learner.served = None if values["is_learners_own"] else self._predictor(self._block)
        self._scored = (None, None)
        self._learner.good = self._learner.probation = None
        self._tell_learner()

    def _all_kept(self) -> tuple[tuple[str, Kept | None], ...]:
        return ("beginning", self._beginning), ("good", self._good), ("probation", self._probation)

    def _go_back(self, version: Version) -> tuple[Block, Version]:
        """To the good version; before there is one, to the beginning, which is all that is left of a broken model."""
        kept = self._good or self._beginning
        assert kept is not None, "nothing was served before the start"
        block = Block(msgspec.structs.replace(kept.block.head, version=version), kept.block.arrays)
        if self._restore:
            # The state is copied, since the model goes on to change what it is given.
            self._learner.model.load(copy.deepcopy(kept.model))
            self._correctable.go_back(kept.learned, self._learner.model)
            span = dict(kept.block.head.position), dict(self._learner.position)
            self._withdrawn = [*self._withdrawn, span][-REMEMBERED_MAX:]
            self._lately.roll_back()
            self._learner.served = None
        else:
            self._learner.served = self._predictor(block)
        self._probation = None
        return block, kept.block.head.version

    def _is_settled(self, span: Withdrawn) -> bool:
        return all(offset <= self._settled.get(partition, 0) for partition, offset in span[1].items())

    def _tell_learner(self) -> None:
        """Predictors are made when what they predict from changes, and not at each step."""
        good, probation = self._scored
        if self._good is not None and self._good is probation:
            self._learner.good = self._learner.probation
        elif self._good is not good:
            self._learner.good = None if self._good is None else self._predictor(self._good.block)
        if self._probation is not probation:
            self._learner.probation = None if self._probation is None else self._predictor(self._probation.block)
        self._scored = (self._good, self._probation)

    def _answer(self) -> Predictor:
        """What is served; made where somebody asks for it, and once."""
        if self._learner.served is not None:
            return self._learner.served
        if self._answering is None or self._answering[0] is not self.block:
            self._answering = self.block, self._predictor(self.block)
        return self._answering[1]

    def _freeze(self, version: Version) -> Block:
        # In the order that a restart finds them in: a version that is made again is the same to the byte.
        return self._learner.model.freeze(version, dict(sorted(self._learner.position.items())))


def _packed(block: Block) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(pack(block)), np.uint8)
