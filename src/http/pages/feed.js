// What both pages need of the network: addresses, server-sent events over fetch, because an
// EventSource sends no Authorization, and pauses between attempts.

/** Where the server is: maybe below a path, behind a proxy. This file is in its /assets/. */
const root = new URL("../", import.meta.url);
/** The address of a path of the API, given without its first slash. */
export const at = (path) => new URL(path, root);
/** A name in this tab's storage that no other server of the same origin has. */
export const slot = (group, name) => `flux.${group}${root.pathname.slice(1)}${name}`;

/**
 * Calls `on(name, data)` for each event of an answer until the stream ends, `heard()` for each sign
 * of life. Rejects when the connection is lost.
 */
export async function readEvents(answer, on, heard = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const { event = "message", data } = fieldsOf(text.slice(0, end));
      text = text.slice(end + 2);
      if (data !== undefined) on(event, JSON.parse(data));
    }
  }
}

/**
 * The fields of one event by name (HTML, "Server-sent events"). Only line feeds end lines: data may
 * contain U+2028, which ends a line for a regular expression.
 */
function fieldsOf(event) {
  const fields = {};
  for (const line of event.split("\n")) {
    const [name, ...rest] = line.split(":");
    const value = rest.join(":").replace(/^ /, "");
    fields[name] = name === "data" && "data" in fields ? `${fields.data}\n${value}` : value;
  }
  return fields;
}

/** Headers that carry a key, if there is one. */
export const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** Whether a key can be sent in a header at all: fetch throws at others. */
export const sendable = (key) => /^[\x21-\x7e]+$/.test(key);

/** Milliseconds before the next attempt: what the server asks for, else twice as long each time. */
export function pause(attempt, answer) {
  const asked = Number(answer?.headers.get("Retry-After") ?? NaN);
  const base = asked >= 0 ? Math.min(asked, 60) * 1000 : 500 * 2 ** Math.min(attempt, 4);
  // A crowd that was turned away together should not come back together.
  return base + Math.random() * Math.max(500, base / 2);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a problem answer says, in its own words. */
export async function detail(answer) {
  try {
    return (await answer.json()).detail ?? `The server answered ${answer.status}.`;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}
