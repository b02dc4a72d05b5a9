"""What EMB asks."""

from conformance.answers import Question

EMBEDDINGS = "/v1/embeddings"
TEXTS = ["A clock counts its ticks.", "Night"]
N_DIMENSIONS = 4


def embedding(**fields: object) -> Question:
    """Return a request for embeddings."""
    return Question(EMBEDDINGS, fields, "embeddings")


EMBEDDED = {
    "text": embedding(input=TEXTS[0]),
    "list": embedding(input=TEXTS),
}
ALONE = {text: embedding(input=text) for text in TEXTS}
ENCODED = embedding(input=TEXTS, encoding_format="base64")
SHORTENED = embedding(input=TEXTS, dimensions=N_DIMENSIONS)
WRONG = {
    "empty-text": embedding(input=""),
    "empty-list": embedding(input=[]),
    "empty-item": embedding(input=["word", ""]),
    "missing": embedding(),
    "number": embedding(input=7),
    "mixed": embedding(input=["word", 7]),
}
TOKENS = {
    "one": embedding(input=[2, 3]),
    "several": embedding(input=[[2, 3], [4]]),
}
NO_TOKENS = {
    "beyond": embedding(input=[2**31 - 1]),
    "negative": embedding(input=[[-1]]),
}
