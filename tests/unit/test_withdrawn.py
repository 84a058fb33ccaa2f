"""Which events of the past a rollback has withdrawn."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.events import Offset, Partition, Position
from penstock.learn.withdrawn import Withdrawn, from_values, parts, to_values

ZERO, ONE = Partition(0), Partition(1)


def at(zero: int, one: int) -> Position:
    return {ZERO: Offset(zero), ONE: Offset(one)}


positions = st.builds(at, st.integers(0, 30), st.integers(0, 30))


@given(st.lists(st.tuples(positions, positions), max_size=4), st.integers(0, 29), st.integers(1, 20))
def test_each_offset_is_withdrawn_where_some_rollback_says_so(
    withdrawn: list[Withdrawn], first: int, length: int
) -> None:
    last = first + length
    found = list(parts(withdrawn, ONE, first, last))
    assert [start for start, _, _ in found] == [first, *(stop for _, stop, _ in found[:-1])]
    assert found[-1][1] == last
    by_offset = {offset: is_out for start, stop, is_out in found for offset in range(start, stop)}
    for offset in range(first, last):
        assert by_offset[offset] == any(start[ONE] <= offset < end[ONE] for start, end in withdrawn)


@given(st.lists(st.tuples(positions, positions), max_size=4))
def test_plain_values_say_the_same(withdrawn: list[Withdrawn]) -> None:
    assert from_values(msgspec.msgpack.decode(msgspec.msgpack.encode(to_values(withdrawn)))) == withdrawn


def test_a_version_from_before_a_partition_began_withdraws_all_of_it() -> None:
    assert list(parts([({ZERO: Offset(5)}, at(9, 4))], ONE, 2, 6)) == [(2, 4, True), (4, 6, False)]
    assert list(parts([(at(1, 1), {ZERO: Offset(9)})], ONE, 2, 6)) == [(2, 6, False)]
