"""In place of vLLM, which delphi imports with every client and which a machine without a GPU cannot hold: nothing."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock

sys.modules.update({name: MagicMock() for name in ("vllm", "vllm.inputs", "vllm.distributed.parallel_state")})
