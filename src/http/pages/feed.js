// Network functions of both pages: addresses, server-sent events, and pauses between attempts. Events
// are read with fetch, because an EventSource cannot send Authorization.

/** The base URL of the server, which may have a path behind a proxy. This file is in its /assets/. */
const root = new URL("../", import.meta.url);
/** The URL of an API path, given without its first slash. */
export const at = (path) => new URL(path, root);
/** A key in this tab's storage that no other server of the same origin uses. */
export const slot = (group, name) => `flux.${group}${root.pathname.slice(1)}${name}`;

/**
 * Calls `on(name, data)` for each event of a response until the stream ends, and `alive()` for each
 * chunk of data. Rejects when the connection is lost.
 */
export async function readEvents(answer, on, alive = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
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

/** The headers with the key, if there is one. */
export const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** Whether a key can be sent in a header; for others fetch throws. */
export const sendable = (key) => /^[\x21-\x7e]+$/.test(key);

/** Milliseconds until the next attempt: the server's Retry-After, or else doubled each time. */
export function pause(attempt, answer) {
  const asked = Number(answer?.headers.get("Retry-After") ?? NaN);
  const base = asked >= 0 ? Math.min(asked, 60) * 1000 : 500 * 2 ** Math.min(attempt, 4);
  // Jitter, so that clients that were refused at the same time do not return at the same time.
  return base + Math.random() * Math.max(500, base / 2);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The detail of a problem response. */
export async function detail(answer) {
  try {
    return (await answer.json()).detail ?? `The server answered ${answer.status}.`;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}
