"""
The correct server that everything is proved against: it promises every capability, and keeps it.

Each capability is a class of its own, so that a fault can change it where it is.
"""

from conformance.broken.completing import Completing
from conformance.broken.embedding import Embedding
from conformance.broken.messaging import Messaging
from conformance.broken.responding import Responding
from conformance.broken.thinking import Thinking
from conformance.broken.tokens import Tokenizing


class Capable(Responding, Completing, Messaging, Tokenizing, Thinking, Embedding):
    """The miniature, with the whole of OpenAI's surface, and Anthropic's messages."""
