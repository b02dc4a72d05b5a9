"""A correct server that ends in the middle of everything: `python mortal.py --port 8000`."""

import os
import sys

from conformance.broken import fault
from conformance.broken.__main__ import main
from conformance.broken.miniature import Asked, Reply

N_ANSWERS = 100


class Mortal(fault.CORRECT):
    """It answers a while."""

    def answer(self, asked: Asked) -> Reply:
        """Answer, or be gone."""
        if next(self.numbers) > N_ANSWERS:
            os._exit(1)
        return super().answer(asked)


fault.CORRECT = Mortal
if __name__ == "__main__":
    main(sys.argv[1:])
