// A client whose types openapi-typescript has made of the OpenAPI document: it chats, and it streams.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type ChatRequest = components["schemas"]["ChatRequest"];
type Chunk = components["schemas"]["ChatCompletionChunk"];

const client = createClient<paths>({ baseUrl: process.argv[2]! });
const listed = await client.GET("/v1/models");
assert(listed.data);
const question = { role: "user" as const, content: "Hello" };
const asked: ChatRequest = {
  model: listed.data.data[0]!.id,
  messages: [question],
  temperature: 0,
};
const whole = await client.POST("/v1/chat/completions", { body: asked });
assert(whole.data && "choices" in whole.data);
const text = whole.data.choices[0]!.message.content;
assert(text);

const stream = await client.POST("/v1/chat/completions", {
  body: { ...asked, stream: true },
  parseAs: "text",
});
let streamed = "";
for (const line of String(stream.data).split("\n")) {
  if (!line.startsWith("data: {")) continue;
  const chunk: Chunk = JSON.parse(line.slice("data: ".length));
  for (const choice of chunk.choices) streamed += choice.delta.content ?? "";
}
assert.equal(streamed, text);
console.log("streamed", streamed);
