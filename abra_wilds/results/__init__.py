"""What runs leave, read and written without torch."""
