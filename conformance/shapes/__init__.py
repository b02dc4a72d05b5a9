"""Shapes of OpenAI's beyond plain chat, each said as the first problem found; empty for none."""
