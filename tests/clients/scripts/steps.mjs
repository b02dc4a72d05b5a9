// What the JavaScript scripts share: how a step is tried and told. Nothing but node.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const API = `${process.argv[2]}/v1`;
export const MODEL = "local-mlx/gemma-3-demo";
export const QUESTION = "What does /health mean?";
export const KEY = "whatever";

export const WEATHER = {
  type: "object",
  properties: {
    city: { type: "string", maxLength: 12 },
    unit: { type: "string", enum: ["celsius", "fahrenheit"] },
  },
  required: ["city", "unit"],
  additionalProperties: false,
};

/**
 * Return what tries a step and prints what came of it as one line of JSON: what the function returns is
 * what was seen, what it throws is what went wrong.
 */
export function steps(client) {
  const folder = dirname(fileURLToPath(import.meta.url));
  const described = readFileSync(join(folder, "node_modules", client, "package.json"), "utf-8");
  const { version } = JSON.parse(described);
  const tell = (step, ok, seen) => {
    const short = String(seen).replace(/\s+/g, " ").trim().slice(0, 200);
    console.log(JSON.stringify({ client, version, step, ok, seen: short }));
  };
  return async (name, attempt) => {
    try {
      tell(name, true, await attempt());
    } catch (error) {
      console.error(error);
      tell(name, false, error);
    }
  };
}
