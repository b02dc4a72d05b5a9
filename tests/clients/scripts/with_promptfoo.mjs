// promptfoo: evaluations over each of the three interfaces.

process.env.PROMPTFOO_DISABLE_TELEMETRY = "1";
process.env.PROMPTFOO_DISABLE_UPDATE = "1";
process.env.PROMPTFOO_DISABLE_REMOTE_GENERATION = "true";

import assert from "node:assert";

import { API, KEY, MODEL, QUESTION, steps } from "./steps.mjs";

process.env.PROMPTFOO_CONFIG_DIR = `${process.cwd()}/promptfoo-home`;
const { evaluate } = (await import("promptfoo")).default;
const step = steps("promptfoo");

const asked = async (id, config) => {
  const evaluated = await evaluate(
    {
      prompts: [QUESTION],
      providers: [{ id, config: { apiKey: KEY, ...config } }],
      tests: [{ assert: [{ type: "contains", value: "health" }] }],
      writeLatestResults: false,
    },
    { cache: false, maxConcurrency: 1, showProgressBar: false },
  );
  const { results } = await evaluated.toEvaluateSummary();
  assert.equal(results.length, 1);
  assert(results[0].success, results[0].error);
  return results[0].response.output;
};

await step("chat", () => asked(`openai:chat:${MODEL}`, { apiBaseUrl: API }));
await step("responses", () => asked(`openai:responses:${MODEL}`, { apiBaseUrl: API }));
await step("messages", () =>
  asked(`anthropic:messages:${MODEL}`, { apiBaseUrl: API.replace(/\/v1$/, ""), max_tokens: 100 }),
);
process.exit(0);
