"""Sidecar → host: the gRPC door, and the gate behind it through which every request of a module goes."""
