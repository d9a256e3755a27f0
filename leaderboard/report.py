"""`abra-wilds report` as a script; see abra_wilds/commands/board/report.py."""

import sys

from abra_wilds.commands.board.report import main

if __name__ == "__main__":
    sys.exit(main())
