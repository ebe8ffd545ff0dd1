"""What all tests share."""

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: what counts is the examples, not how long each takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
