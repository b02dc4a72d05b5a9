"""What IMG asks."""

from conformance.answers import GREETING, Question
from conformance.pictures import data_url, png
from conformance.questions.chat import BOUND, Fields, chat, user

PICTURE = data_url(png())
ASKING: Fields = {"type": "text", "text": "What is this?"}


def picture(url: str, **fields: object) -> Fields:
    """Return a part that shows the picture at *url*."""
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def seeing(*parts: Fields) -> Question:
    """Return a chat of one turn with pictures in it."""
    return chat({"messages": user(parts), "max_tokens": BOUND}, "images")


SEEN = {
    "one": seeing(ASKING, picture(PICTURE)),
    "before-the-text": seeing(picture(PICTURE), ASKING),
    "two": seeing(ASKING, picture(PICTURE), picture(PICTURE)),
    "detail": seeing(ASKING, picture(PICTURE, detail="low")),
    "earlier-turn": chat(
        {
            "messages": [
                *user([ASKING, picture(PICTURE)]),
                {"role": "assistant", "content": "A square."},
                *user(GREETING),
            ],
            "max_tokens": BOUND,
        },
        "images",
    ),
}
UNSEEN = seeing(ASKING)
NO_PICTURES = {
    "no-base64": "data:image/png;base64,%%%",
    "nothing": "data:image/png;base64,",
    "no-picture": data_url(b"This is no picture."),
    "cut-short": data_url(png()[:60]),
    "boundless": data_url(png(claimed_pixels=60_000)),
}
BROKEN = {name: seeing(ASKING, picture(url)) for name, url in NO_PICTURES.items()}
ELSEWHERE = {
    "private": "http://10.255.255.1/picture.png",
    "link-local": "http://169.254.169.254/latest/meta-data/",
    "file": "file:///etc/hostname",
}
FOREIGN = {name: seeing(ASKING, picture(url)) for name, url in ELSEWHERE.items()}
