"""Which sites, wells and plates of a screen not to trust, and why."""
