// The status page: looks at /status once a second, draws it, and chats. Whatever comes from the server is text.

const LOOK_MS = 1000;
const N_SAMPLES = 120;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

let key = null;
let before = null;
const rates = [];

function headers(more = {}) {
  return key === null ? more : { ...more, Authorization: `Bearer ${key}` };
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

const seconds = (value) => (value === null ? "–" : value < 1 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(1)} s`);
const GOOD = new Set(["ready", "warming"]);
const KINDS = { ready: "good", warming: "good", unloaded: "", stopped: "bad", failed: "bad" };

// --- what is drawn ---------------------------------------------------------------------------------------

function showModels(models) {
  const rows = models.map((model) => {
    const row = element("tr");
    const name = element("td", model.id ?? "not loaded yet");
    if (model.reason) name.append(element("span", model.reason, "quiet"));
    const state = element("td");
    state.append(element("span", model.state, `pill ${KINDS[model.state] ?? "busy"}`));
    if (model.warmup_completed) state.append(element("span", "warmed up", "quiet"));
    const figures = [model.context_length?.toLocaleString() ?? "–", model.generating, model.waiting];
    row.append(name, state, ...figures.map((figure) => element("td", figure, "n")));
    return row;
  });
  $("models").tBodies[0].replaceChildren(...rows);
  const askable = models.filter((model) => model.id && (GOOD.has(model.state) || model.state === "unloaded"));
  const ids = askable.map((model) => model.id);
  const shown = [...$("model").options].map((option) => option.value);
  if (ids.join("\n") !== shown.join("\n")) {
    const chosen = $("model").value;
    $("model").replaceChildren(...ids.map((id) => new Option(id, id, false, id === chosen)));
  }
  $("send").disabled = ids.length === 0 || !$("stop").disabled;
  const isUp = models.some((model) => GOOD.has(model.state));
  const isDown = models.every((model) => KINDS[model.state] === "bad");
  overall(isUp ? "ready" : isDown ? "down" : "loading", isUp ? "good" : isDown ? "bad" : "busy");
  if (ids.length) showPrograms(ids[0]);
}

function overall(word, kind) {
  $("overall").textContent = word;
  $("overall").className = `pill ${kind}`;
}

function showRate(status) {
  const now = { at: performance.now() / 1000, tokens: status.completion_tokens };
  if (before !== null && now.at > before.at) {
    rates.push(Math.max(0, now.tokens - before.tokens) / (now.at - before.at));
    if (rates.length > N_SAMPLES) rates.shift();
    $("rate-now").textContent = rates.at(-1).toFixed(0);
    line($("rate"), rates, N_SAMPLES);
  }
  before = now;
}

function showRequests(requests) {
  $("requests").hidden = requests.length === 0;
  $("no-requests").hidden = requests.length !== 0;
  $("requests").tBodies[0].replaceChildren(...requests.slice(0, 15).map(requestRow));
  const oldestFirst = requests.toReversed();
  const first = oldestFirst.map((request) => request.ttft_s ?? 0);
  const read = oldestFirst.filter((request) => request.prompt_tokens > 0);
  const shares = read.map((request) => Math.min(1, request.cached_tokens / request.prompt_tokens));
  bars($("ttft"), first);
  bars($("cache"), shares, 1);
  $("ttft-now").textContent = first.length ? seconds(first.at(-1)) : "–";
  $("cache-now").textContent = shares.length ? `${(shares.at(-1) * 100).toFixed(0)} %` : "–";
}

function requestRow(request) {
  const row = element("tr");
  const name = element("td", request.id, "id");
  name.title = request.id;
  name.append(element("span", `${new Date(request.at * 1000).toLocaleTimeString()} ${request.path}`, "quiet"));
  const split = element("td");
  const parts = [["queue", request.queue_s], ["prefill", request.prefill_s ?? 0], ["decode", request.decode_s ?? 0]];
  const whole = parts.reduce((sum, [, part]) => sum + part, 0) || 1;
  const bar = drawn("svg", { class: "split", viewBox: "0 0 100 1", preserveAspectRatio: "none" });
  let x = 0;
  for (const [kind, part] of parts) {
    bar.append(drawn("rect", { class: kind, x, y: 0, width: (100 * part) / whole, height: 1 }));
    x += (100 * part) / whole;
  }
  bar.append(title(parts.map(([kind, part]) => `${kind} ${seconds(part)}`).join(", ")));
  split.append(bar);
  row.append(
    name,
    element("td", request.model),
    element("td", request.status, "n"),
    element("td", `${request.prompt_tokens} / ${request.completion_tokens}`, "n"),
    split,
    element("td", request.duration_s.toFixed(2), "n"),
  );
  return row;
}

function title(text) {
  const made = drawn("title", {});
  made.textContent = text;
  return made;
}

function line(svg, values, n) {
  const top = Math.max(1, ...values);
  const x = (i) => n - values.length + i;
  const points = values.map((value, i) => `${x(i)},${40 - (38 * value) / top}`).join(" ");
  svg.setAttribute("viewBox", `0 0 ${n - 1} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  const area = drawn("polygon", { class: "area", points: `${x(0)},40 ${points} ${x(values.length - 1)},40` });
  svg.replaceChildren(area, drawn("polyline", { class: "line", points }));
}

function bars(svg, values, most = Math.max(0.001, ...values)) {
  const n = Math.max(values.length, 12);
  svg.setAttribute("viewBox", `0 0 ${n} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...values.map((value, i) => {
    const height = Math.max(0.5, (38 * value) / most);
    return drawn("rect", { class: "bar", x: n - values.length + i + 0.15, y: 40 - height, width: 0.7, height });
  }));
}

function showPrograms(model) {
  const base = location.origin;
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }] });
  const quoted = `'${body.replaceAll("'", "'\\''")}'`;
  const withKey = key === null ? "" : ' -H "Authorization: Bearer $API_KEY"';
  $("curl").textContent = `curl ${base}/v1/chat/completions${withKey} \\\n  -d ${quoted}`;
  $("python").textContent = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}/v1", api_key=${key === null ? '"any"' : 'os.environ["API_KEY"]'})`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(model)}, messages=[{"role": "user", "content": "Hello"}]`,
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}

// --- looking ---------------------------------------------------------------------------------------------

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/status", { headers: headers() });
      $("key-form").hidden = answer.status !== 401;
      if (answer.ok) {
        const status = await answer.json();
        showModels(status.models);
        showRate(status);
        showRequests(status.requests);
      } else if (answer.status === 401) overall("locked", "busy");
    } catch {
      overall("unreachable", "bad");
      before = null;
    }
  }
  setTimeout(look, LOOK_MS);
}

// --- the chat --------------------------------------------------------------------------------------------

const messages = [];
let talking = null;

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const pieces = text.split("\n\n");
    text = pieces.pop();
    for (const piece of pieces) {
      const data = piece.split("\n").filter((row) => row.startsWith("data: ")).map((row) => row.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function begin(role) {
  const turn = element("div", "", `turn ${role}`);
  $("turns").append(turn);
  return turn;
}

async function talk(text) {
  messages.push({ role: "user", content: text });
  begin("user").textContent = text;
  const turn = begin("assistant");
  const thoughts = element("details");
  const thought = element("span");
  thoughts.append(element("summary", "Thoughts"), thought);
  const said = element("span");
  const note = element("small");
  turn.append(said, note);
  talking = new AbortController();
  $("stop").disabled = false;
  $("send").disabled = true;
  const began = performance.now();
  let first = null;
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify({ model: $("model").value, messages, stream: true, stream_options: { include_usage: true } }),
      signal: talking.signal,
    });
    const id = answer.headers.get("X-Request-ID");
    note.textContent = id;
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices?.[0]?.delta ?? {};
      first ??= delta.content || delta.reasoning_content || delta.tool_calls ? performance.now() : null;
      if (delta.reasoning_content) {
        if (!thoughts.isConnected) turn.prepend(thoughts);
        thought.textContent += delta.reasoning_content;
      }
      said.textContent += delta.content ?? "";
      for (const call of delta.tool_calls ?? []) {
        said.after(element("code", `${call.function?.name ?? ""}(${call.function?.arguments ?? ""})`));
      }
      if (event.usage) {
        const wait = first === null ? "–" : seconds((first - began) / 1000);
        const rate = event.usage.completion_tokens / Math.max(event.timings?.decode_s ?? 0, 0.001);
        note.textContent = `${id}: first token after ${wait}, ${event.usage.completion_tokens} tokens, ${rate.toFixed(0)} a second`;
      }
      $("turns").scrollTop = $("turns").scrollHeight;
    }
    messages.push({ role: "assistant", content: said.textContent });
  } catch (error) {
    if (error.name === "AbortError") {
      note.textContent += " stopped";
      messages.push({ role: "assistant", content: said.textContent });
    } else {
      turn.classList.add("failed");
      said.textContent += ` ${error.message}`;
      messages.pop();
    }
  } finally {
    talking = null;
    $("stop").disabled = true;
    $("send").disabled = false;
  }
}

$("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || talking !== null) return;
  $("text").value = "";
  talk(text);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("chat").requestSubmit();
  }
});
$("stop").addEventListener("click", () => talking?.abort());
$("clear").addEventListener("click", () => {
  talking?.abort();
  messages.length = 0;
  $("turns").replaceChildren();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  $("key").value = "";
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($(button.dataset.copies).textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

$("place").textContent = `${location.origin}/v1`;
look();
