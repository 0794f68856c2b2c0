"""Networks that others trained, from packages of pip: how each is fed, calibrated and judged."""
