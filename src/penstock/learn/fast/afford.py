"""How many random features a service can afford: a count of what learning costs, from the service file alone.

A clock would make what is learned depend on the machine and its load. A count makes it the same everywhere, and only
the speed another: the figures below are those of an ordinary core that does nothing else, and a budget is met about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.spec import Spec

if TYPE_CHECKING:
    from penstock.learn.fast.layout import Layout

COUNTS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Random features to choose from: fewer would hardly be cheaper than what else an event costs."""
PRODUCT_US = 0.1e-3
"""Microseconds for one number times another in products of matrices, in steps of 32 events: one by one an event costs
several times as much, in long steps a fifth."""
RENEWED_EVERY = 256
"""Events between two inverses made from the information, of most heads."""
CLASSES_UNNAMED = 16
"""Classes that are counted on where the service file names none."""


def event_us(layout: Layout, inputs: int, outputs: int) -> float:
    """Microseconds of learning an event with these heads, of so many encoded inputs and scores a head.

    A head of D columns takes D^2 products for what its inverse makes of an event, half as many for each of taking the
    event into the inverse and into the information, D^3 for a new inverse, and D for each score, thrice."""
    random = layout.random_features
    products = inputs * random
    widths = ((layout.linear, 1 + inputs), (layout.brief, random + 1), (layout.rich, random + 1 + inputs))
    for half_lives, width in widths:
        products += len(half_lives) * (2 * width**2 + width**3 // RENEWED_EVERY + 3 * width * outputs)
    if layout.first_order is not None:
        products += 3 * (random + 1 + inputs) * outputs
    return PRODUCT_US * products


def affordable(spec: Spec, without: Layout, layouts: list[Layout], inputs: int) -> Layout:
    """The last of these layouts, of ascending numbers of random features, that costs no more than the one ``without``
    them and the service's budget, or twice as much as that one if this is more; the first where none does."""
    outputs = 1
    if without.exact is not None:
        outputs = 2 if spec.task == "binary" else len(spec.label.classes) or CLASSES_UNNAMED
    least = event_us(without, inputs, outputs)
    most = least + max(least, spec.learn.random_features_us)
    within = [layout for layout in layouts if event_us(layout, inputs, outputs) <= most]
    return within[-1] if within else layouts[0]
