"""Host → sidecar: starting Deno processes, talking to them, stopping them."""
