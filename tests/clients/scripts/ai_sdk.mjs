// What every provider of Vercel's AI SDK is tried with.

import assert from "node:assert/strict";
import { Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { QUESTION } from "./steps.mjs";

const Forecast = z.object({
  sky: z.enum(["clear", "cloudy", "rain"]),
  celsius: z.number().int().min(-40).max(50),
  windy: z.boolean(),
  remark: z.string().max(20),
});

const weather = tool({
  description: "Tell the weather of a city.",
  inputSchema: z.object({ city: z.string().max(12), unit: z.enum(["celsius", "fahrenheit"]) }),
  execute: async ({ city, unit }) => `It is clear in ${city}, at 20 degrees ${unit}.`,
});

/** Try everything with *model*; each step's name begins with *prefix*. */
export async function everything(step, model, prefix = "") {
  const ask = { model, prompt: QUESTION, maxRetries: 0 };

  await step(`${prefix}generateText`, async () => {
    const answer = await generateText({ ...ask, system: "Be brief." });
    assert.equal(answer.finishReason, "stop");
    assert.ok(answer.usage.outputTokens > 0);
    assert.ok(answer.text);
    return answer.text;
  });

  await step(`${prefix}streamText`, async () => {
    const errors = [];
    const answer = streamText({ ...ask, onError: ({ error }) => errors.push(error) });
    let text = "";
    for await (const part of answer.textStream) text += part;
    assert.deepEqual(errors, []);
    assert.equal(await answer.finishReason, "stop");
    assert.ok(text);
    return `${(await answer.usage).outputTokens} tokens: ${text}`;
  });

  await step(`${prefix}generateObject`, async () => {
    const { object } = await generateObject({ ...ask, schema: Forecast });
    return JSON.stringify(object);
  });

  await step(`${prefix}streamObject`, async () => {
    const errors = [];
    const answer = streamObject({
      ...ask,
      schema: Forecast,
      onError: ({ error }) => errors.push(error),
    });
    let parts = 0;
    for await (const part of answer.partialObjectStream) parts += part ? 1 : 0;
    assert.deepEqual(errors, []);
    return `${parts} parts, ${JSON.stringify(await answer.object)}`;
  });

  await step(`${prefix}generateText with an output`, async () => {
    const answer = await generateText({ ...ask, output: Output.object({ schema: Forecast }) });
    return JSON.stringify(answer.output);
  });

  await step(`${prefix}generateText with a tool in two steps`, async () => {
    const answer = await generateText({
      ...ask,
      tools: { weather },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
    });
    assert.deepEqual(answer.steps.map((each) => each.finishReason), ["tool-calls", "stop"]);
    assert.ok(answer.text);
    return `${answer.steps[0].toolResults[0].output} ${answer.text}`;
  });

  await step(`${prefix}streamText with a tool`, async () => {
    const errors = [];
    const answer = streamText({
      ...ask,
      tools: { weather },
      toolChoice: { type: "tool", toolName: "weather" },
      onError: ({ error }) => errors.push(error),
    });
    const results = await answer.toolResults;
    assert.deepEqual(errors, []);
    assert.equal(results.length, 1);
    return results[0].output;
  });
}
