"""What the checks of the OpenAI surface ask: a file for each area, a table for each kind, by case."""
