// Vercel's AI SDK with its provider for servers of OpenAI's interface.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import { everything } from "./ai_sdk.mjs";
import { API, KEY, MODEL, steps } from "./steps.mjs";

const step = steps("@ai-sdk/openai-compatible");
const local = createOpenAICompatible({
  name: "local",
  baseURL: API,
  apiKey: KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});

await everything(step, local.chatModel(MODEL));

await step("completion: generateText", async () => {
  const model = local.completionModel(MODEL);
  return (await generateText({ model, prompt: "The server", maxOutputTokens: 8, maxRetries: 0 })).text;
});
