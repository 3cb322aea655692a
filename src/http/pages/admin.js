// The actions that require the admin key: restock, close, open, redrive and drop dead letters.

import { at, bearer, detail, sendable, slot } from "./feed.js";
import { $, count, write } from "./words.js";

const SLOT = slot("", "admin");
export const adminKey = () => sessionStorage.getItem(SLOT) ?? "";

export function showAdmin() {
  document.body.toggleAttribute("data-admin", Boolean(adminKey()));
  write($("admin"), adminKey() ? "Leave admin" : "Admin");
}

let toastTimer;
function toast(text, bad = false) {
  $("toast").textContent = text;
  $("toast").classList.toggle("bad", bad);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").textContent = ""), bad ? 12_000 : 5_000);
}

/** Asks for a confirmation or a number. Resolves to the number (or true), or to undefined. */
function ask({ title, words, button, grave, number }) {
  const dialog = $("ask-dialog");
  const input = $("ask-number");
  write($("ask-title"), title);
  write($("ask-words"), words);
  write($("ask-ok"), button);
  $("ask-ok").className = grave ? "grave" : "main";
  $("ask-row").hidden = number === undefined;
  input.required = number !== undefined;
  input.value = number ?? "";
  dialog.returnValue = "";
  dialog.showModal();
  if (number !== undefined) input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "ok") resolve(undefined);
      else resolve(number === undefined ? true : Number(input.value));
    }, { once: true });
  });
}

async function send(method, path, body, done) {
  try {
    const headers = { "Content-Type": "application/json", ...bearer(adminKey()) };
    const answer = await fetch(at(path), { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) return toast(await detail(answer), true);
    toast(done(await answer.json().catch(() => ({}))));
  } catch {
    toast("The server cannot be reached. It is unknown whether the change was made.", true);
  }
}

const put = (item, body, done) => send("PUT", `items/${encodeURIComponent(item)}`, body, done);

async function setStock(item) {
  const taken = item.sold + item.held;
  const stock = await ask({
    title: `Stock of ${item.item_id}`,
    words: `The stock is ${count(item.stock)} units. It cannot be below the ${count(taken)} units that are sold or held.`,
    button: "Set the stock",
    number: item.stock,
  });
  if (stock === undefined) return;
  await put(item.item_id, { stock }, () => `The stock of ${item.item_id} is now ${count(stock)} units.`);
}

async function setSale(item) {
  const id = item.item_id;
  if (item.status === "closed") {
    const yes = await ask({
      title: `Open the sale of ${id}?`, button: "Open it",
      words: "New orders can succeed again. Orders rejected while the sale was closed stay rejected.",
    });
    if (yes) await put(id, { status: "open" }, () => `${id} is open.`);
    return;
  }
  const yes = await ask({
    title: `Close the sale of ${id}?`, button: "Close it", grave: true,
    words: "All undecided orders are rejected permanently. The sale can be opened again for new orders.",
  });
  if (yes) await put(id, { status: "closed" }, () => `${id} is closed.`);
}

/** The results of a redrive or drop as a sentence, with the reason of the first one that stayed. */
function summarize({ dead_letters: all = [], left }) {
  const of = (...names) => all.filter(({ became }) => names.includes(became));
  const parts = [
    ["sent again", of("sent_again")], ["already decided", of("already_decided")],
    ["dropped", of("dropped")], ["already gone", of("gone")], ["stayed", of("kept", "failed")],
  ];
  const words = parts.filter(([, some]) => some.length).map(([word, some]) => `${count(some.length)} ${word}`);
  const why = of("kept", "failed")[0]?.why;
  // Isolated, because a reason may quote right-to-left text.
  const reason = why ? ` (\u2068${why}\u2069)` : "";
  const rest = left && all.length > 1 ? `; ${count(left)} are left` : "";
  return `${words.join(", ") || "There was nothing to do"}${reason}${rest}.`;
}

const letters = (what, body) => send("POST", `dead-letters/${what}`, body, summarize);

async function redrive(body, what) {
  const yes = await ask({
    title: `Send ${what} again?`, button: "Send again",
    words: "Each order goes to the end of the queue with its own id. Orders that were decided in the meantime do not change.",
  });
  if (yes) await letters("redrive", body);
}

async function drop(body, what) {
  const yes = await ask({
    title: `Drop ${what}?`, button: "Drop for good", grave: true,
    words: "This cannot be undone. An undecided order becomes dropped, and its buyer gets nothing.",
  });
  if (yes) await letters("drop", body);
}

function act(button, snapshot) {
  const item = snapshot?.items?.find(({ item_id }) => item_id === button.closest("[data-item]")?.dataset.item);
  const order = button.closest("[data-order]")?.dataset.order;
  const one = { order_ids: [order] };
  const all = { all: true };
  switch (button.dataset.act) {
    case "stock": return item && setStock(item);
    case "sale": return item && setSale(item);
    case "redrive": return redrive(one, `order ${order}`);
    case "drop": return drop(one, `order ${order}`);
    case "redrive-all": return redrive(all, "all dead letters");
    case "drop-all": return drop(all, "all dead letters");
  }
}

/** Checks a key by listing dead letters, which requires it. Resolves to an error text or undefined. */
async function tryKey(key) {
  if (!sendable(key)) return "A key contains no spaces or special characters.";
  try {
    const answer = await fetch(at("dead-letters?limit=1"), { headers: bearer(key), cache: "no-store" });
    if (answer.ok) return undefined;
    return answer.status === 401 ? "This is not the admin key." : await detail(answer);
  } catch {
    return "The server cannot be reached.";
  }
}

/** `snapshot()` returns the last state of the sale; `changed` is called when the key has changed. */
export function setUpAdmin(snapshot, changed) {
  const wrong = (text) => {
    $("key-wrong").hidden = !text;
    $("key-wrong").textContent = text ?? "";
  };
  $("admin").addEventListener("click", () => {
    if (adminKey()) {
      sessionStorage.removeItem(SLOT);
      showAdmin();
      changed();
      return;
    }
    $("key").value = "";
    wrong();
    $("key-dialog").showModal();
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    const problem = await tryKey(key);
    wrong(problem);
    if (problem) return $("key").focus();
    sessionStorage.setItem(SLOT, key);
    $("key").value = "";
    $("key-dialog").close();
    showAdmin();
    changed();
  });
  $("ask-ok").value = "ok";
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (button) act(button, snapshot());
  });
}
