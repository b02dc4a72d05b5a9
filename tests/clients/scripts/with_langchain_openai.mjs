// LangChain for JavaScript, over chats and over responses.

import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import assert from "node:assert";
import { z } from "zod";

import { API, KEY, MODEL, QUESTION, WEATHER, steps } from "./steps.mjs";

const step = steps("@langchain/openai");
const model = (more = {}) =>
  new ChatOpenAI({ model: MODEL, apiKey: KEY, maxRetries: 0, configuration: { baseURL: API }, ...more });
const Forecast = z.object({
  sky: z.enum(["clear", "cloudy", "rain"]),
  celsius: z.number().int().min(-40).max(50),
  windy: z.boolean(),
});
const tool = { type: "function", function: { name: "weather", description: "The weather.", parameters: WEATHER } };

for (const [name, more] of [["chats", {}], ["responses", { useResponsesApi: true }]]) {
  await step(`${name}: invoke`, async () => {
    const answer = await model(more).invoke(QUESTION);
    assert(answer.usage_metadata.total_tokens > 0);
    assert(answer.text);
    return answer.text;
  });

  await step(`${name}: stream`, async () => {
    let text = "";
    for await (const chunk of await model(more).stream(QUESTION)) text += chunk.text;
    assert(text);
    return text;
  });

  await step(`${name}: tools and back`, async () => {
    const demanding = model(more).bindTools([tool], { tool_choice: "weather" });
    const asked = await demanding.invoke(QUESTION);
    const [call] = asked.tool_calls;
    assert.deepEqual(Object.keys(call.args).sort(), ["city", "unit"]);
    const result = new ToolMessage({ content: "clear", tool_call_id: call.id });
    const told = await model(more).bindTools([tool]).invoke([new HumanMessage(QUESTION), asked, result]);
    assert(told.text || told.tool_calls.length);
    return JSON.stringify(call.args);
  });

  await step(`${name}: structured by zod`, async () => {
    const structured = model(more).withStructuredOutput(Forecast, { method: "jsonSchema" });
    return JSON.stringify(Forecast.parse(await structured.invoke(QUESTION)));
  });
}
