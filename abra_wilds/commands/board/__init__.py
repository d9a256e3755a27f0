"""Jobs from run folders to the leaderboard and the paper's tables and figures."""
