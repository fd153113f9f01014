"""What a module may ask the host for: files, processes, the store, and the app's own services."""
