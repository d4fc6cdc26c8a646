"""For all tests."""

from __future__ import annotations

import torch

# The networks of most tests are so small that a second thread costs more than it brings, and many
# times more on a machine that is busy otherwise.
torch.set_num_threads(1)
