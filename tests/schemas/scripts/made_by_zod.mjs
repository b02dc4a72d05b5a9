// Schemas that zod makes, by its own function and by zod-to-json-schema, with what keeps them and what doesn't.
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { zodToJsonSchema } from "zod-to-json-schema";

const person = { name: "Ada", age: 36, email: "ada@example.com" };
// A type of either version, values that keep it, values that don't.
const both = [
  (z) => [z.object({ name: z.string().min(1), age: z.number().int().nonnegative(), email: z.string().email() }),
    [person], [{ ...person, age: -1 }, { ...person, email: "ada" }, { name: "Ada" }]],
  (z) => [z.object({ a: z.string().optional(), b: z.number().nullable() }), [{ b: null }, { a: "x", b: 1 }], [{ a: "x" }]],
  (z) => [z.strictObject ? z.strictObject({ a: z.boolean() }) : z.object({ a: z.boolean() }).strict(), [{ a: true }], [{ a: true, b: 1 }]],
  (z) => [z.object({ a: z.boolean() }).passthrough(), [{ a: true, b: 1 }], [{ a: 1 }]],
  (z) => [z.discriminatedUnion("kind", [z.object({ kind: z.literal("a"), n: z.number() }), z.object({ kind: z.literal("b") })]),
    [{ kind: "a", n: 1 }, { kind: "b" }], [{ kind: "c" }, { kind: "a" }]],
  (z) => [z.union([z.string(), z.number(), z.null()]), ["x", 1, null], [true]],
  (z) => [z.union([z.object({ a: z.string() }), z.object({ b: z.string() })]), [{ a: "x" }, { b: "x" }], [{ a: 1 }]],
  (z) => [z.intersection(z.object({ a: z.string() }), z.object({ b: z.number() })), [{ a: "x", b: 1 }], [{ a: "x" }]],
  (z) => [z.record(z.string(), z.number()), [{ a: 1 }, {}], [{ a: "x" }]],
  (z) => [z.record(z.enum(["a", "b"]), z.number()), [{ a: 1, b: 2 }], [{ c: 1 }]],
  (z) => [z.record(z.string().regex(/^[a-z]+$/), z.number()), [{ a: 1 }], [{ A: 1 }]],
  (z) => [z.array(z.string()).min(1).max(2), [["a"], ["a", "b"]], [[], [1]]],
  (z) => [z.tuple([z.string(), z.number()]), [["a", 1]], [[1, "a"]]],
  (z) => [z.tuple([z.string()]).rest(z.number()), [["a"], ["a", 1, 2]], [["a", "b"]]],
  (z) => [z.enum(["x", "y"]), ["x"], ["z"]],
  (z) => [z.literal(3), [3], [4]],
  (z) => [z.string().email(), ["ada.b@example.com"], ["ada", "ada@x", "a..b@example.com"]],
  (z) => [z.string().url(), ["https://example.com/a"], [1]],
  (z) => [z.string().uuid(), ["3d7a8d2e-6d8b-4c36-9a51-2f1f3f0c4b11"], ["x"]],
  (z) => [z.string().datetime(), ["2024-05-06T07:08:09Z"], ["noon"]],
  (z) => [z.string().date(), ["2024-05-06"], ["2024-13-06"]],
  (z) => [z.string().regex(/^\d{3}$/), ["123"], ["12"]],
  (z) => [z.string().startsWith("ab"), ["abc"], ["ba"]],
  (z) => [z.string().base64(), ["YWJj"], [1]],
  (z) => [z.string().cuid(), ["ckopqwooh000001la8mbi2im9"], [1]],
  (z) => [z.string().length(3), ["abc"], ["ab"]],
  (z) => [z.number().gt(0).lt(1), [0.5], [0, 1]],
  (z) => [z.number().multipleOf(5), [10], [11]],
  (z) => [z.number().int().min(1).max(10).default(3), [3], [11]],
  (z) => [z.any(), [1, "x", null], []],
  (z) => [z.unknown(), [{ a: 1 }], []],
  (z) => [z.null(), [null], [0]],
  (z) => [z.never(), [], [1]],
  (z) => [z.set ? z.array(z.number()) : z.any(), [[1, 2]], [["x"]]],
  (z) => { const node = z.object({ v: z.string(), next: z.lazy(() => node).optional() });
    return [node, [{ v: "a", next: { v: "b" } }], [{ v: 1 }]]; },
];
const tests = (kept, broken) =>
  [...kept.map((data) => ({ data, valid: true })), ...broken.map((data) => ({ data, valid: false }))];
const found = { zod: [], "zod-to-json-schema": [] };
both.forEach((make, i) => {
  const put = (name, convert, [type, kept, broken]) =>
    found[name].push({ description: `type ${i}`, schema: convert(type), tests: tests(kept, broken) });
  put("zod", (type) => z.toJSONSchema(type), make(z));
  put("zod-to-json-schema", (type) => zodToJsonSchema(type), make(z3));
});
found["zod-to-json-schema"].push({ description: "a set", schema: zodToJsonSchema(z3.set(z3.number())),
  tests: tests([[1, 2]], [["x"]]) });
console.log(JSON.stringify(found));
