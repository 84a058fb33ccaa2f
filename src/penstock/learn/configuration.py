"""The settings of a service that its fast tier is made of, as a challenge changes them and a base carries them.

The service file says what a model begins with. What a challenge has put in force since stands in the artifact of the
base, so that whoever finds the base by its id has the settings with it: a restart, a version that is gone back to or
built once more, a server.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.spec import Spec

CHALLENGED = ("half_lives", "random_features", "random_features_us", "tree_window")
"""Names of these settings within ``learn``."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, as a challenge has them."""

    number: int = 0
    """Of the challenge, so that the same settings that are tried twice are told apart."""
    half_lives: tuple[str, ...]
    """As text: JSON has no infinity."""
    random_features: int | Literal["auto"]
    random_features_us: float
    tree_window: int

    @classmethod
    def of(cls, spec: Spec) -> Configuration:
        """What this service file says."""
        learn = spec.learn
        return cls(
            half_lives=tuple(map(str, learn.half_lives)),
            random_features=learn.random_features,
            random_features_us=learn.random_features_us,
            tree_window=learn.tree_window,
        )

    def words(self) -> dict[str, str]:
        """Each setting by its name within ``learn``, as the service file would have it."""
        half_lives = ", ".join(format(float(half_life), ".15g") for half_life in self.half_lives)
        return {
            "half_lives": f"[{half_lives}]",
            "random_features": str(self.random_features),
            "random_features_us": format(self.random_features_us, ".15g"),
            "tree_window": str(self.tree_window),
        }

    def applied(self, spec: Spec) -> Spec:
        """The service with these settings in the place of its own."""
        learn = msgspec.structs.replace(
            spec.learn,
            half_lives=tuple(map(float, self.half_lives)),
            random_features=self.random_features,
            random_features_us=self.random_features_us,
            tree_window=self.tree_window,
        )
        return msgspec.structs.replace(spec, learn=learn)
