"""What all tests share: Hypothesis never judges by the clock, since nothing here depends on how busy the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

import penstock.learn.fast.machine_code  # noqa: F401 - compiled here once, and not by each process that a test starts

settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")
