"""What performs ExitTask, were it not written as a script."""

import sys

sys.exit(2)
