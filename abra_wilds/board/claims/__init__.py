"""The paper's claims, each with the records that could refute it."""
