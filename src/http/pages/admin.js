// What the organiser may do with the admin key: restock, close, open, send again, drop.

import { at, bearer, detail, sendable, slot } from "./feed.js";
import { $, count, write } from "./words.js";

const SLOT = slot("", "admin");
export const adminKey = () => sessionStorage.getItem(SLOT) ?? "";

export function showAdmin() {
  document.body.toggleAttribute("data-admin", Boolean(adminKey()));
  write($("admin"), adminKey() ? "Leave admin" : "Admin");
}

let told;
function tell(text, bad = false) {
  $("toast").textContent = text;
  $("toast").classList.toggle("bad", bad);
  clearTimeout(told);
  told = setTimeout(() => ($("toast").textContent = ""), bad ? 12_000 : 5_000);
}

/** Asks before what matters; resolves to the number given (or true), or to undefined. */
function ask({ title, words, button, grave, number }) {
  const [dialog, input] = [$("ask-dialog"), $("ask-number")];
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
    if (!answer.ok) return tell(await detail(answer), true);
    tell(done(await answer.json().catch(() => ({}))));
  } catch {
    tell("The server cannot be reached; whether that was done is not known.", true);
  }
}

const put = (item, body, done) => send("PUT", `items/${encodeURIComponent(item)}`, body, done);

async function setStock(item) {
  const taken = item.sold + item.held;
  const stock = await ask({
    title: `Stock of ${item.item_id}`,
    words: `It has ${count(item.stock)} units now; ${count(taken)} are sold or held, and it cannot have fewer.`,
    button: "Set the stock",
    number: item.stock,
  });
  if (stock === undefined) return;
  await put(item.item_id, { stock }, () => `${item.item_id} has ${count(stock)} units now.`);
}

async function setSale(item) {
  const id = item.item_id;
  if (item.status === "closed") {
    const yes = await ask({
      title: `Open the sale of ${id}?`, button: "Open it",
      words: "Orders are sold again from now on. Those rejected in between stay rejected.",
    });
    if (yes) await put(id, { status: "open" }, () => `${id} is open.`);
    return;
  }
  const yes = await ask({
    title: `Close the sale of ${id}?`, button: "Close it", grave: true,
    words: "Every order that is not decided yet is rejected, for good. The sale can be opened again for new ones.",
  });
  if (yes) await put(id, { status: "closed" }, () => `${id} is closed.`);
}

/** What became of the letters, in words: those that stayed, with the first reason. */
function fates({ dead_letters: all = [], left }) {
  const of = (...names) => all.filter(({ became }) => names.includes(became));
  const parts = [
    ["sent again", of("sent_again")], ["decided already", of("already_decided")],
    ["dropped", of("dropped")], ["gone already", of("gone")], ["stayed", of("kept", "failed")],
  ];
  const words = parts.filter(([, some]) => some.length).map(([word, some]) => `${count(some.length)} ${word}`);
  const why = of("kept", "failed")[0]?.why;
  // Isolated: a reason may quote text that runs from right to left.
  const reason = why ? ` (\u2068${why}\u2069)` : "";
  const rest = left && all.length > 1 ? `; ${count(left)} are left` : "";
  return `${words.join(", ") || "There was nothing to do"}${reason}${rest}.`;
}

const letters = (what, body) => send("POST", `dead-letters/${what}`, body, fates);

async function redrive(body, what) {
  const yes = await ask({
    title: `Send ${what} again?`, button: "Send again",
    words: "It goes to the end of the line under its own id. What was decided meanwhile is left as it is.",
  });
  if (yes) await letters("redrive", body);
}

async function drop(body, what) {
  const yes = await ask({
    title: `Drop ${what}?`, button: "Drop for good", grave: true,
    words: "This cannot be undone: an undecided order becomes dropped for good, and its buyer gets nothing.",
  });
  if (yes) await letters("drop", body);
}

function act(button, board) {
  const item = board?.items?.find(({ item_id }) => item_id === button.closest("[data-item]")?.dataset.item);
  const order = button.closest("[data-order]")?.dataset.order;
  const [one, all] = [{ order_ids: [order] }, { all: true }];
  switch (button.dataset.act) {
    case "stock": return item && setStock(item);
    case "sale": return item && setSale(item);
    case "redrive": return redrive(one, `order ${order}`);
    case "drop": return drop(one, `order ${order}`);
    case "redrive-all": return redrive(all, "all dead letters");
    case "drop-all": return drop(all, "all dead letters");
  }
}

/** Whether the key is good: only its holder sees the dead letters. */
async function tryKey(key) {
  if (!sendable(key)) return "A key has no spaces or special letters in it.";
  try {
    const answer = await fetch(at("dead-letters?limit=1"), { headers: bearer(key), cache: "no-store" });
    if (answer.ok) return undefined;
    return answer.status === 401 ? "This is not the admin key." : await detail(answer);
  } catch {
    return "The server cannot be reached.";
  }
}

/** `board` gives what is shown; `changed` is called when the key is another. */
export function setUpAdmin(board, changed) {
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
    if (button) act(button, board());
  });
}
