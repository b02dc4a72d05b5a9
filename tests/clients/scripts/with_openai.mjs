// OpenAI's own client for JavaScript.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { API, KEY, MODEL, QUESTION, WEATHER, steps } from "./steps.mjs";

const step = steps("openai");
const client = new OpenAI({ baseURL: API, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const weather = { name: "weather", description: "Tell the weather of a city.", parameters: WEATHER };
const tools = [{ type: "function", function: weather }];
const Forecast = z.object({
  sky: z.enum(["clear", "cloudy", "rain"]),
  celsius: z.number().int().min(-40).max(50),
  windy: z.boolean(),
  remark: z.string().max(20),
});

await step("models", async () => {
  const listed = await client.models.list();
  const model = await client.models.retrieve(listed.data[0].id);
  assert.deepEqual(model, listed.data[0]);
  return model.id;
});

await step("chat", async () => {
  const answer = await client.chat.completions.create({ model: MODEL, messages, temperature: 0 });
  assert.equal(answer.choices[0].finish_reason, "stop");
  return answer.choices[0].message.content;
});

await step("stream with usage", async () => {
  const options = { model: MODEL, messages, temperature: 0 };
  const whole = await client.chat.completions.create(options);
  const stream = await client.chat.completions.create({
    ...options,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(usage, whole.usage);
  return `${usage.completion_tokens} tokens`;
});

await step("stream helper left early", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;
  }
  stream.abort();
  const again = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 2 });
  return again.choices[0].message.content;
});

await step("several answers with logprobs", async () => {
  const answer = await client.chat.completions.create({
    model: MODEL,
    messages,
    n: 2,
    logprobs: true,
    top_logprobs: 2,
    max_tokens: 4,
  });
  assert.deepEqual(answer.choices.map((choice) => choice.logprobs.content.length), [4, 4]);
  return answer.choices[0].logprobs.content.map((each) => each.token).join("|");
});

await step("tools and back", async () => {
  const asked = await client.chat.completions.create({
    model: MODEL,
    messages,
    tools,
    tool_choice: "required",
  });
  const { message } = asked.choices[0];
  const [call] = message.tool_calls;
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city", "unit"]);
  const result = { role: "tool", tool_call_id: call.id, content: "clear" };
  const told = await client.chat.completions.create({
    model: MODEL,
    messages: [...messages, message, result],
    tools,
  });
  assert.ok(told.choices[0].message.content);
  return call.function.arguments;
});

await step("run tools helper", async () => {
  const given = [];
  const runner = client.chat.completions.runTools({
    model: MODEL,
    messages,
    tool_choice: { type: "function", function: { name: "weather" } },
    tools: [
      {
        type: "function",
        function: {
          ...weather,
          parse: JSON.parse,
          function: (found) => {
            given.push(found);
            return "clear";
          },
        },
      },
    ],
  });
  await runner.finalChatCompletion();
  assert.equal(given.length, 1);
  return JSON.stringify(given[0]);
});

await step("parse into zod", async () => {
  const answer = await client.chat.completions.parse({
    model: MODEL,
    messages,
    response_format: zodResponseFormat(Forecast, "forecast"),
  });
  return JSON.stringify(Forecast.parse(answer.choices[0].message.parsed));
});

await step("typed errors", async () => {
  const unknown = client.chat.completions.create({ model: "nope", messages });
  await assert.rejects(unknown, OpenAI.NotFoundError);
  const hot = client.chat.completions.create({ model: MODEL, messages, temperature: 9 });
  await assert.rejects(hot, { status: 400, param: "temperature" });
  return "NotFoundError, BadRequestError";
});

await step("embeddings not offered", async () => {
  const asked = client.embeddings.create({ model: MODEL, input: "Hello" });
  const error = await asked.then(assert.fail, (each) => each);
  assert.ok([400, 404].includes(error.status), error);
  return `${error.status} ${error.code}`;
});

await step("completions", async () => {
  const options = { model: MODEL, prompt: "The model is", max_tokens: 8, temperature: 0 };
  const answer = await client.completions.create(options);
  let text = "";
  for await (const chunk of await client.completions.create({ ...options, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.equal(text, answer.choices[0].text);
  return text;
});

await step("responses", async () => {
  const answer = await client.responses.create({ model: MODEL, input: QUESTION });
  assert.equal(answer.status, "completed");
  assert.ok(answer.output_text);
  return answer.output_text;
});

await step("responses stream", async () => {
  const stream = client.responses.stream({ model: MODEL, input: QUESTION });
  let text = "";
  stream.on("response.output_text.delta", (event) => {
    text += event.delta;
  });
  const final = await stream.finalResponse();
  assert.equal(text, final.output_text);
  return text;
});

await step("responses tools and back", async () => {
  const offered = [{ type: "function", strict: true, ...weather }];
  const input = [{ role: "user", content: QUESTION }];
  const asked = await client.responses.create({
    model: MODEL,
    input,
    tools: offered,
    tool_choice: "required",
  });
  const call = asked.output.find((item) => item.type === "function_call");
  const result = { type: "function_call_output", call_id: call.call_id, output: "clear" };
  const told = await client.responses.create({
    model: MODEL,
    input: [...input, ...asked.output, result],
    tools: offered,
  });
  assert.ok(told.output_text);
  return call.arguments;
});

await step("responses parse into zod", async () => {
  const answer = await client.responses.parse({
    model: MODEL,
    input: QUESTION,
    text: { format: zodTextFormat(Forecast, "forecast") },
  });
  return JSON.stringify(Forecast.parse(answer.output_parsed));
});
