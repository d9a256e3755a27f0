"""What runs leave behind, read and written without torch."""
