"""
The correct server that everything is proved against: it promises every capability, and keeps it.

Each capability is a class of its own, so that a fault can change it where it is.
"""

from conformance.broken.embedding import Embedding
from conformance.broken.responding import Responding


class Capable(Responding, Embedding):
    """The miniature, with the whole of OpenAI's surface."""
