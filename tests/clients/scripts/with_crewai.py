"""CrewAI: its language model by itself, and a crew of one agent with a task."""

from __future__ import annotations

import os

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true"}

from crewai import LLM, Agent, Crew, Task
from forecast import WEATHER, Forecast
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("crewai")
options = {"model": f"openai/{MODEL}", "base_url": API, "api_key": KEY, "max_retries": 0}
llm = LLM(**options)


@step
def call() -> str:
    answer = llm.call([{"role": "user", "content": QUESTION}])
    assert answer
    return answer


@step
def call_streamed() -> str:
    answer = LLM(**options, stream=True).call(QUESTION)
    assert answer
    return answer


@step
def tools_are_offered() -> str:
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    return str(llm.call(QUESTION, tools=[tool]))


@step
def structured_by_pydantic() -> Forecast:
    answer = LLM(**options, response_format=Forecast).call(QUESTION)
    return answer if isinstance(answer, Forecast) else Forecast.model_validate_json(answer)


@step
def crew_of_one() -> str:
    agent = Agent(role="Teller", goal="Tell what is asked.", backstory="You know it.", llm=llm)
    task = Task(description=QUESTION, expected_output="A sentence.", agent=agent)
    answer = Crew(agents=[agent], tasks=[task], tracing=False).kickoff()
    assert answer.raw
    return answer.raw
