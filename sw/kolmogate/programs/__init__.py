"""Weight programs: what the machine regenerates its weights from."""
