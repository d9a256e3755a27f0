"""What a run is configured by: frozen dataclasses whose fields are flags, their checks and their digest."""
