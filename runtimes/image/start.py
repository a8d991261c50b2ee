"""Starts the agent in a container: Python is isolated from its environment there and must be told where things are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from runtimes.guest.init import main

main()
