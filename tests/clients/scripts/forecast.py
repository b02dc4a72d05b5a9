"""What the Python scripts ask for: forms that even a tiny model can't get wrong, if it is held to them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

City = Annotated[str, Field(description="A city's name.", max_length=12)]
Unit = Literal["celsius", "fahrenheit"]


def sky(windy: bool) -> str:
    """Tell the weather, with or without the wind."""
    return f"It is clear; asked for the wind: {windy}."


class Forecast(BaseModel):
    """A day's weather."""

    sky: Literal["clear", "cloudy", "rain"]
    celsius: int = Field(ge=-40, le=50)
    windy: bool
    remark: str = Field(max_length=20)


def weather(city: City, unit: Unit) -> str:
    """Tell the weather of a city."""
    return f"It is clear in {city}, at 20 degrees {unit}."


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
