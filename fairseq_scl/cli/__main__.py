"""``python -m fairseq_scl.cli`` is ``fairseq-scl``."""

import sys

from fairseq_scl.cli import main

sys.exit(main())
