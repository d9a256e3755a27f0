"""Submissions to the WILDS leaderboard, and their scores from the archive alone."""
