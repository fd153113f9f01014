"""Programs that measure coredeno beside bare floors, on the same machine in the same minute."""
