// Vercel's AI SDK with its provider for OpenAI, which speaks `/v1/responses` unless told otherwise.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";
import { everything } from "./ai_sdk.mjs";
import { API, KEY, MODEL, steps } from "./steps.mjs";

const step = steps("@ai-sdk/openai");
const openai = createOpenAI({ baseURL: API, apiKey: KEY });

await everything(step, openai.chat(MODEL), "chat: ");
await everything(step, openai(MODEL), "responses: ");

await step("completion: generateText", async () => {
  const model = openai.completion(MODEL);
  return (await generateText({ model, prompt: "The server", maxOutputTokens: 8, maxRetries: 0 })).text;
});
