"""A whole step of the Cluster Autoscaler: what to add for the pods that wait, and which nodes to take away.

The rules are those of cluster-autoscaler/core (2026-07). The state goes in and comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from penstock.control.nodes import expanders, removal
from penstock.control.nodes.packing import Alike, pack
from penstock.control.nodes.shapes import NodeShape, Placed, PodShape


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's flags, with their defaults."""

    scan_interval_s: float = 10.0
    expanders: tuple[expanders.Name, ...] = ("least-waste",)
    priorities: dict[int, tuple[str, ...]] = msgspec.field(default_factory=dict)
    utilization_threshold: float = 0.5
    gpu_utilization_threshold: float = 0.5
    unneeded_time_s: float = 600.0
    unready_time_s: float = 1200.0
    delay_after_add_s: float = 600.0
    delay_after_delete_s: float = 0.0
    delay_after_failure_s: float = 180.0
    max_provision_time_s: float = 900.0
    max_nodes_per_scale_up: int = 1000
    max_nodes_total: int | None = None
    max_gpus_total: int | None = None
    max_removals: int = 10
    max_drains: int = 1
    first_backoff_s: float = 300.0
    max_backoff_s: float = 1800.0
    backoff_reset_s: float = 10_800.0
    expendable_priority: int = -10
    """Pods of less than this priority get no nodes, and keep none."""
    ignore_daemonsets: bool = False


class NodeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one shape, of which there may be more or fewer."""

    name: str
    shape: NodeShape
    """What the autoscaler believes that a new node will be: its template."""
    smallest: int = 0
    largest: int = 10
    target: int = 0
    """How many the cloud was asked for."""
    usd_h: float | None = None


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A pod on a node."""

    shape: PodShape
    daemonset: bool = False
    mirror: bool = False
    movable: bool = True
    """Whether it may be evicted: not a pod without a controller, with local storage, or held by its budget."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is there."""

    name: str
    group: str | None
    shape: NodeShape
    """What it has now: its devices are 0 until their plugin has told of them."""
    ready: bool = True
    disabled: bool = False
    being_deleted: bool = False
    pods: tuple[Resident, ...] = ()

    @property
    def waits_for_devices(self) -> bool:
        """Whether it is marked as having devices that are not there yet. Only the mark tells the autoscaler."""
        return self.shape.is_labelled_for_devices and self.shape.gpu == 0

    @property
    def counts_as_ready(self) -> bool:
        """Whether pods may be put on it now."""
        return self.ready and not self.being_deleted and not self.waits_for_devices


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """A group whose nodes did not come."""

    until: float
    length_s: float
    failed_t: float


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes that were asked for and are not there yet."""

    group: str
    count: int
    t: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the autoscaler remembers from step to step."""

    unneeded_since: dict[str, float] = msgspec.field(default_factory=dict)
    added_t: float | None = None
    deleted_t: float | None = None
    failed_t: float | None = None
    asked: tuple[Asked, ...] = ()
    backoffs: dict[str, Backoff] = msgspec.field(default_factory=dict)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a step decides."""

    group: str | None = None
    """The group to grow, and by how many."""
    add: int = 0
    remove: tuple[str, ...] = ()
    """Nodes to take away; the pods on them are evicted."""
    give_up: tuple[tuple[str, int], ...] = ()
    """Nodes that did not come in time: their groups are asked for so many fewer."""
    waiting: int = 0
    """Pods that no node, there or coming, has room for."""
    memory: Memory


def step(
    pending: Sequence[PodShape],
    nodes: Sequence[Node],
    groups: Sequence[NodeGroup],
    memory: Memory,
    *,
    now: float,
    seed: int,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Decision:
    """Decide once. After a step that adds nodes nothing is taken away."""
    # 1. What was asked for and did not come in time is given up, and its group left alone for a while.
    memory, given_up = _expire(groups, nodes, memory, now, settings)
    groups = [_less(group, given_up) for group in groups]
    # 2. Pods for which there is room, on nodes that are there or on their way, need nothing.
    room = _rooms(nodes, groups)
    waiting = _left_over(_alike(pending, settings), room)
    # 3. The others are packed onto new nodes of every group, and the expander chooses.
    option = _scale_up(waiting, room, groups, memory, now, seed, settings) if waiting else None
    count = sum(each.count for each in waiting)
    unneeded = _unneeded(nodes, groups, settings)
    memory = msgspec.structs.replace(memory, unneeded_since=removal.since(memory.unneeded_since, unneeded, now))
    if option is not None:
        asked = (*memory.asked, Asked(group=option.group, count=option.nodes, t=now))
        memory = msgspec.structs.replace(memory, added_t=now, asked=asked)
        return Decision(group=option.group, add=option.nodes, give_up=given_up, waiting=count, memory=memory)
    # 4. Nodes that have been unneeded for long enough go: empty ones together, those with pods one at a time.
    gone = () if _is_resting(memory, now, settings) else _scale_down(unneeded, nodes, groups, memory, now, settings)
    if gone:
        memory = msgspec.structs.replace(memory, deleted_t=now)
    return Decision(remove=gone, give_up=given_up, waiting=count, memory=memory)


def upcoming(group: NodeGroup, nodes: Sequence[Node]) -> int:
    """Nodes of a group that were asked for and cannot be used yet, those that wait for their devices among them."""
    usable = sum(node.group == group.name and not _is_coming(node) for node in nodes)
    return max(0, group.target - usable)


def _is_coming(node: Node) -> bool:
    return (not node.ready or node.waits_for_devices) and not node.being_deleted


def _alike(pending: Sequence[PodShape], settings: Settings) -> list[Alike]:
    """The pods that wait, those of one shape together, without those that are not worth a node."""
    counts: dict[bytes, int] = Counter()
    shapes: dict[bytes, PodShape] = {}
    for pod in pending:
        if pod.priority >= settings.expendable_priority:
            key = msgspec.msgpack.encode(pod)
            counts[key] += 1
            shapes[key] = pod
    return [Alike(pod=shapes[key], count=count) for key, count in counts.items()]


def _placed(node: Node) -> Placed:
    placed = Placed(name=node.name, shape=node.shape)
    for pod in node.pods:
        placed.put(pod.shape)
    return placed


def _rooms(nodes: Sequence[Node], groups: Sequence[NodeGroup]) -> list[Placed]:
    """Nodes that can be used, and those on their way as their groups' templates describe them."""
    there = [_placed(node) for node in nodes if node.counts_as_ready]
    coming = [
        Placed(name=f"{group.name}/coming-{index}", shape=group.shape)
        for group in groups
        for index in range(upcoming(group, nodes))
    ]
    return there + coming


def _left_over(waiting: Sequence[Alike], room: Sequence[Placed]) -> list[Alike]:
    """The pods that find no place in the rooms, which are filled."""
    left = []
    for group in waiting:
        count = group.count
        for node in room:
            taken = min(count, node.room(group.pod))
            if taken:
                node.put(group.pod, taken)
                count -= taken
        if count:
            left.append(Alike(pod=group.pod, count=count))
    return left


def _scale_up(
    waiting: Sequence[Alike],
    room: Sequence[Placed],
    groups: Sequence[NodeGroup],
    memory: Memory,
    now: float,
    seed: int,
    settings: Settings,
) -> expanders.Option | None:
    options = []
    total = sum(group.target for group in groups)
    gpus = sum(group.target * group.shape.gpu for group in groups)
    for group in groups:
        backoff = memory.backoffs.get(group.name)
        if backoff is not None and now < backoff.until:
            continue
        limit = min(group.largest - group.target, settings.max_nodes_per_scale_up)
        if settings.max_nodes_total is not None:
            limit = min(limit, settings.max_nodes_total - total)
        if settings.max_gpus_total is not None and group.shape.gpu:
            limit = min(limit, (settings.max_gpus_total - gpus) // group.shape.gpu)
        if limit <= 0:
            continue
        fitting = [each for each in waiting if group.shape.admits(each.pod)]
        existing = [_copy(placed) for placed in room]
        packing = pack(fitting, group.shape, existing=existing, max_new_nodes=limit)
        if packing.pods:
            options.append(_option(group, fitting, packing.placed, packing.nodes))
    priorities = {rank: list(patterns) for rank, patterns in settings.priorities.items()}
    return expanders.choose(options, settings.expanders, seed=seed, priorities=priorities)


def _option(group: NodeGroup, waiting: Sequence[Alike], placed: Sequence[int], nodes: int) -> expanders.Option:
    helped = list(zip(waiting, placed, strict=True))
    return expanders.Option(
        group=group.name,
        nodes=nodes,
        pods=sum(placed),
        cpu_m=group.shape.cpu_m,
        memory_b=group.shape.memory_b,
        asked_cpu_m=sum(each.pod.cpu_m * count for each, count in helped),
        asked_memory_b=sum(each.pod.memory_b * count for each, count in helped),
        usd_h=group.usd_h,
    )


def _expire(
    groups: Sequence[NodeGroup], nodes: Sequence[Node], memory: Memory, now: float, settings: Settings
) -> tuple[Memory, tuple[tuple[str, int], ...]]:
    """Forget what came, and give up what did not come in time."""
    kept, given_up, backoffs = [], [], dict(memory.backoffs)
    failed_t = memory.failed_t
    missing = {group.name: max(0, group.target - sum(node.group == group.name for node in nodes)) for group in groups}
    # The newest requests are those that are still open; the oldest ones came first.
    for asked in reversed(memory.asked):
        count = min(asked.count, missing.get(asked.group, 0))
        if not count:
            continue
        missing[asked.group] -= count
        if now - asked.t < settings.max_provision_time_s:
            kept.append(msgspec.structs.replace(asked, count=count))
            continue
        given_up.append((asked.group, count))
        backoffs[asked.group] = _longer(backoffs.get(asked.group), now, settings)
        failed_t = now
    memory = msgspec.structs.replace(memory, asked=tuple(reversed(kept)), backoffs=backoffs, failed_t=failed_t)
    return memory, tuple(given_up)


def _longer(before: Backoff | None, now: float, settings: Settings) -> Backoff:
    length_s = settings.first_backoff_s
    if before is not None and now - before.failed_t < settings.backoff_reset_s:
        length_s = min(2.0 * before.length_s, settings.max_backoff_s)
    return Backoff(until=now + length_s, length_s=length_s, failed_t=now)


def _less(group: NodeGroup, given_up: Sequence[tuple[str, int]]) -> NodeGroup:
    fewer = sum(count for name, count in given_up if name == group.name)
    return msgspec.structs.replace(group, target=group.target - fewer) if fewer else group


def _is_resting(memory: Memory, now: float, settings: Settings) -> bool:
    """Whether something happened too recently for nodes to be taken away."""
    pauses = (
        (memory.added_t, settings.delay_after_add_s),
        (memory.deleted_t, settings.delay_after_delete_s),
        (memory.failed_t, settings.delay_after_failure_s),
    )
    return any(t is not None and t + delay_s > now for t, delay_s in pauses)


def _used(node: Node, settings: Settings) -> float:
    has = removal.Usage(
        cpu_m=node.shape.cpu_m,
        memory_b=node.shape.memory_b,
        gpu=node.shape.gpu,
        is_labelled_for_devices=node.shape.is_labelled_for_devices,
    )
    pods = [
        removal.Resident(
            cpu_m=pod.shape.cpu_m,
            memory_b=pod.shape.memory_b,
            gpu=pod.shape.gpu,
            daemonset=pod.daemonset,
            mirror=pod.mirror,
        )
        for pod in node.pods
    ]
    return removal.utilization(has, pods, ignore_daemonsets=settings.ignore_daemonsets)


def _unneeded(nodes: Sequence[Node], groups: Sequence[NodeGroup], settings: Settings) -> list[str]:
    """Nodes that are little used and whose pods would fit on the others, each counted on what the ones before left."""
    names = {group.name for group in groups}
    room = {node.name: _placed(node) for node in nodes if node.counts_as_ready}
    found = []
    for node in sorted(nodes, key=lambda each: bool(_movers(each))):
        has_devices = node.shape.gpu > 0 or node.shape.is_labelled_for_devices
        threshold = settings.gpu_utilization_threshold if has_devices else settings.utilization_threshold
        why = removal.eligible(
            _used(node, settings),
            threshold=threshold,
            ready=node.ready,
            being_deleted=node.being_deleted,
            disabled=node.disabled,
        )
        if why is None and node.group in names and _moves(node, room):
            found.append(node.name)
    return found


def _movers(node: Node) -> list[Resident]:
    """Pods that would have to go elsewhere."""
    return [pod for pod in node.pods if not pod.daemonset and not pod.mirror]


def _moves(node: Node, room: dict[str, Placed]) -> bool:
    """Whether the node's pods fit elsewhere; if so they are put there and the node is out of the reckoning."""
    movers = _movers(node)
    if not all(pod.movable for pod in movers):
        return False
    others = {name: _copy(placed) for name, placed in room.items() if name != node.name}
    for pod in movers:
        place = next((placed for placed in others.values() if placed.room(pod.shape)), None)
        if place is None:
            return False
        place.put(pod.shape)
    room.clear()
    room.update(others)
    return True


def _copy(placed: Placed) -> Placed:
    return msgspec.structs.replace(placed, ports=set(placed.ports), owners=dict(placed.owners))


def _scale_down(
    unneeded: Sequence[str],
    nodes: Sequence[Node],
    groups: Sequence[NodeGroup],
    memory: Memory,
    now: float,
    settings: Settings,
) -> tuple[str, ...]:
    sizes = _sizes(nodes, groups)
    smallest = {group.name: group.smallest for group in groups}
    by_name = {node.name: node for node in nodes}
    empty: list[str] = []
    drained: list[str] = []
    for name in unneeded:
        node = by_name[name]
        group = node.group or ""
        why = removal.blocked(
            removal.Candidate(
                ready=node.ready and not node.waits_for_devices,
                disabled=node.disabled,
                unneeded_for_s=now - memory.unneeded_since[name],
                unneeded_time_s=settings.unneeded_time_s,
                unready_time_s=settings.unready_time_s,
                group_size=sizes[group],
                smallest=smallest[group],
            )
        )
        goes = drained if _movers(node) else empty
        if why is None and len(goes) < (settings.max_drains if goes is drained else settings.max_removals):
            goes.append(name)
            sizes[group] -= 1
    # Empty nodes go first; one with pods goes when there are none.
    return tuple(empty) or tuple(drained)


def _sizes(nodes: Sequence[Node], groups: Sequence[NodeGroup]) -> dict[str, int]:
    going = Counter(node.group for node in nodes if node.being_deleted)
    return {group.name: group.target - going[group.name] for group in groups}
