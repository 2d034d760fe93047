"""For all tests: how fast a loaded machine makes examples says nothing about what is tested."""

from hypothesis import HealthCheck, settings

settings.register_profile("threefold", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("threefold")
