"""What WILDS 2.0 needs and today's packages do not give."""
