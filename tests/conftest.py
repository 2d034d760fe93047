"""What every test shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A loaded machine is no finding: examples are bounded in number, never in time.
settings.register_profile("threefold", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("threefold")
