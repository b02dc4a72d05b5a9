// The OpenAPI document, readable offline: a row for each operation, and within it what goes in and comes out.

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

const METHODS = new Set(["get", "post", "delete", "put", "patch"]);
let document_ = {};

function resolved(value) {
  if (!value?.$ref) return value;
  const steps = value.$ref.slice(2).split("/");
  return steps.reduce((found, step) => found?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], document_);
}

function name(schema) {
  if (schema?.$ref) return schema.$ref.split("/").at(-1);
  if (schema?.type === "array") return `list of ${name(schema.items)}`;
  return [schema?.type].flat().filter(Boolean).join(" or ") || "any";
}

function fields(schema) {
  const found = resolved(schema);
  const table = element("table");
  const must = new Set(found?.required ?? []);
  for (const [field, inner] of Object.entries(found?.properties ?? {})) {
    const row = element("tr");
    const left = element("td", field);
    left.append(element("span", `${name(inner)}${must.has(field) ? ", needed" : ""}`, "quiet"));
    row.append(left, element("td", inner.description ?? resolved(inner)?.description ?? ""));
    table.append(row);
  }
  return table.rows.length ? table : element("span");
}

function operation(path, method, about) {
  const box = element("details");
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), "method"), element("b", path), element("span", `  ${about.summary ?? ""}`, "quiet"));
  const inner = element("div");
  inner.append(element("p", about.description ?? ""));
  const body = about.requestBody?.content?.["application/json"]?.schema;
  if (body) inner.append(element("h3", "Request"), fields(body));
  for (const [status, answer] of Object.entries(about.responses ?? {})) {
    const content = resolved(answer);
    inner.append(element("h3", `${status}: ${content?.description ?? ""}`));
    const schema = content?.content?.["application/json"]?.schema;
    if (schema && status.startsWith("2")) inner.append(fields(schema));
  }
  box.append(summary, inner);
  return box;
}

const answer = await fetch("/openapi.json");
if (answer.ok) {
  document_ = await answer.json();
  document.getElementById("version").textContent = `Version ${document_.info.version}`;
  const rows = [];
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const [method, about] of Object.entries(item)) {
      if (METHODS.has(method)) rows.push(operation(path, method, about));
    }
  }
  document.getElementById("routes").replaceChildren(...rows);
} else {
  document.getElementById("routes").textContent = "This server asks for a key before it shows its document.";
}
