"""``python -m capecam``."""

from capecam.cli import main

main()
