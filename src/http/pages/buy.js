// Buys one item, once, and follows the order until it is decided.
//
// The attempt (its Idempotency-Key, the requested units, and the order id once it is known) is stored
// in sessionStorage before the first request, and stays there until the buyer places another order. So
// a reload, a second press or a lost response leads to the same order.

import { at, bearer, detail, pause, readEvents, sendable, sleep, slot } from "./feed.js";

const $ = (id) => document.getElementById(id);
const item = decodeURIComponent(location.pathname.split("/").pop());
const SLOT = slot("buy.", item);
const TOKEN = slot("buy.", "token");
/** Maximum time of a request without any data. */
const SILENCE_MS = 40_000;
/** Attempts at a request before the page asks the buyer whether to continue. */
const ATTEMPTS = 40;

let attempt = JSON.parse(sessionStorage.getItem(SLOT) ?? "null");
let firstPlace = 0;
let announcedAt = 0;

function keep(next) {
  attempt = next;
  if (next) sessionStorage.setItem(SLOT, JSON.stringify(next));
  else sessionStorage.removeItem(SLOT);
}

/** Reads a token from the fragment, which browsers never send, and removes it from the address. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
}
const token = () => sessionStorage.getItem(TOKEN) ?? "";

function newKey() {
  // crypto.randomUUID exists only on https and localhost.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A request that is aborted after SILENCE_MS without data. `alive()` restarts that time. */
function ask(path, options = {}) {
  const cut = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => cut.abort(), SILENCE_MS);
  };
  alive();
  const headers = { ...bearer(token()), ...options.headers };
  const response = fetch(at(path), { cache: "no-store", ...options, headers, signal: cut.signal });
  return response.then((answer) => ({ answer, alive, over: () => clearTimeout(timer) }));
}

// Rendering.

function show(state, title, words) {
  $("form").hidden = true;
  $("order").hidden = false;
  $("order").dataset.state = state;
  if ($("state").textContent !== title) $("state").textContent = title;
  $("words").textContent = words;
}

/** Announces a text to screen readers: important ones at once, others at most every 15 s. */
function announce(text, important) {
  if (!important && Date.now() - announcedAt < 15_000) return;
  announcedAt = Date.now();
  $("said").textContent = text;
}

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text ?? "";
}

function showForm(problem) {
  $("order").hidden = true;
  $("form").hidden = false;
  $("buy").disabled = false;
  $("refused").hidden = !problem;
  $("refused").textContent = problem ?? "";
}

function duration(seconds) {
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

function showQueued(order) {
  const { place, estimated_wait_s: wait } = order;
  show("waiting", place === 1 ? "You are next" : "You are in line",
    "Your order is safe. Orders are decided in the order in which they arrived.");
  const known = typeof place === "number";
  $("line").hidden = false;
  $("place").textContent = known ? place.toLocaleString("en") : "unknown";
  $("wait").textContent = typeof wait === "number" ? duration(wait) : "unknown";
  if (known) {
    firstPlace = Math.max(firstPlace, place);
    $("progress").style.width = `${100 * (1 - (place - 1) / Math.max(firstPlace, 1))}%`;
    announce(`Place in line: ${place.toLocaleString("en")}.`);
  }
  document.title = known ? `${place.toLocaleString("en")} in line – ${item}` : `In line – ${item}`;
}

const units = (n) => (n === 1 ? "one unit" : `${n} units`);

/** The outcome of an order: state of the page, title, text. */
function ending({ status, reason, quantity }) {
  if (status === "sold") return ["yes", "It is yours", `You bought ${units(quantity)} of ${item}.`];
  if (status === "expired") {
    return ["no", "Expired", "This order is too old to be decided. Nothing was sold to you."];
  }
  if (status === "dropped") {
    return ["no", "Dropped by the seller", "The seller dropped this order. Nothing was sold to you."];
  }
  if (status === "dead_lettered") {
    return ["odd", "The seller must review it",
      "Your order is safe but could not be decided. The seller can send it again; this page shows the result."];
  }
  const nothing = "Nothing was sold to you.";
  switch (reason) {
    case "sold_out": return ["no", "Sold out", `The last unit was sold before your turn. ${nothing}`];
    case "not_enough":
      return ["no", "Not enough left", `Fewer than ${units(quantity)} were left at your turn. ${nothing} A smaller quantity may still be available.`];
    case "user_limit": return ["no", "Limit reached", `You already have as many units as the seller allows per buyer. ${nothing}`];
    case "not_open": return ["no", "Not open yet", `The sale had not begun at your turn. ${nothing}`];
    case "closed": return ["no", "The sale is closed", `The seller closed the sale. ${nothing}`];
    case "unknown_item": return ["no", "Not for sale", `${item} is not listed. ${nothing}`];
    default: return ["no", "Not sold", `The order was rejected (${reason ?? status}). ${nothing}`];
  }
}

function showEnd(order) {
  const [state, title, words] = ending(order);
  const changed = $("state").textContent !== title;
  show(state, title, words);
  trouble();
  $("line").hidden = true;
  $("slip").hidden = false;
  $("slip-user").textContent = order.user_id ?? attempt?.user ?? "";
  $("slip-quantity").textContent = order.quantity ?? attempt?.quantity ?? "";
  $("slip-time").textContent = order.decided_at ? new Date(order.decided_at).toLocaleString() : "not yet";
  $("slip-order").textContent = order.order_id;
  document.title = `${title} – ${item}`;
  $("again").hidden = order.status === "dead_lettered";
  if (changed) $("state").focus();
  if (order.status === "sold") $("left").textContent = "";
  else showLeft();
}

async function showLeft() {
  try {
    const answer = await fetch(at(`items/${encodeURIComponent(item)}`), { cache: "no-store", headers: bearer(token()) });
    if (!answer.ok) return;
    const { free, stock, status } = await answer.json();
    const left = `${free.toLocaleString("en")} of ${stock.toLocaleString("en")} left`;
    $("left").textContent = status === "open" ? left : status === "closed" ? "Closed" : "Sold out";
    // The item may be on sale again by the time the order is decided.
    $("buy").textContent = status === "open" ? "Buy" : "Try to buy anyway";
  } catch {
    // The units left are only for information; the order does not depend on them.
  }
}

// Requests.

/** Repeats `work` until it returns something. Between attempts it shows the cause and waits. */
async function persist(work) {
  for (let n = 0; ; n += 1) {
    let answer;
    try {
      const done = await work((refused) => (answer = refused));
      if (done !== undefined) {
        trouble();
        return done;
      }
    } catch (e) {
      if (e.final) throw e;
    }
    if (n + 1 >= ATTEMPTS) throw { final: "The seller cannot be reached.", unreached: true };
    const ms = pause(n, answer);
    const seconds = Math.max(1, Math.round(ms / 1000));
    const why = answer ? "The server is busy." : "The connection is lost.";
    trouble(`${why} Trying again in ${seconds} s. Your order is not lost.`);
    announce(`${why} Trying again.`);
    await Promise.race([sleep(ms), new Promise((online) => addEventListener("online", online, { once: true }))]);
  }
}

/** Sends the order until it is accepted, or refused for a reason that a repeat does not change. */
function send() {
  return persist(async (refused) => {
    const { answer, over } = await ask("buy", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": attempt.key },
      body: JSON.stringify({ user_id: attempt.user, item_id: item, quantity: attempt.quantity }),
    });
    over();
    if (answer.status === 202) return (await answer.json()).order_id;
    if (answer.status >= 500 || [408, 429].includes(answer.status)) return void refused(answer);
    if (answer.status === 401 || answer.status === 403) throw { final: await detail(answer), token: true };
    if (answer.status === 404) throw { final: "Item not found. Check the address of this page." };
    throw { final: await detail(answer) };
  });
}

/** Follows the order until it is decided: over events, or by long polls if the stream fails. */
async function follow(id) {
  let streams = true;
  for (;;) {
    // A server that has too many waits answers at once with a Retry-After.
    let ms = 250;
    const order = await persist(async (refused) => {
      const { answer, alive, over } = await ask(`orders/${id}${streams ? "/events" : "?wait=20"}`);
      try {
        if (answer.status === 401 || answer.status === 403) throw { final: await detail(answer), token: true };
        if (answer.status === 404) throw { final: "Order not found, or not visible with this token.", token: true };
        if (!answer.ok) {
          streams = false;
          return void refused(answer);
        }
        if (answer.headers.has("Retry-After")) ms = pause(0, answer);
        return await readOrder(answer, streams, alive);
      } catch (e) {
        streams = false;
        throw e;
      } finally {
        over();
      }
    });
    if (order.status !== "queued") return order;
    streams = true;
    await sleep(ms);
  }
}

/** The last state of the order in a response. Shows the queued states on the way. */
async function readOrder(answer, stream, alive) {
  let last = { status: "queued" };
  const update = (order) => {
    trouble();
    last = order;
    if (order.status === "queued") showQueued(order);
  };
  if (stream) await readEvents(answer, (_, order) => update(order), alive);
  else update(await answer.json());
  return last;
}

async function run() {
  $("retry").hidden = true;
  $("slip").hidden = true;
  show("waiting", attempt.order ? "Reading your order" : "Sending your order", "This takes a moment.");
  try {
    if (!attempt.order) {
      const order = await send();
      keep({ ...attempt, order });
      announce("Your order is in line.", true);
    }
    for (;;) {
      const order = await follow(attempt.order);
      showEnd(order);
      if (order.status !== "dead_lettered") return;
      await sleep(10_000);
    }
  } catch (e) {
    failed(e);
  }
}

function failed(e) {
  if (!e.final) throw e;
  trouble();
  $("pass-row").hidden = !e.token;
  if (attempt?.order || e.unreached) {
    $("line").hidden = true;
    $("order").insertBefore($("pass-row"), $("trouble"));
    show("odd", "Status unknown", `${e.final} If your order was accepted, it is safe.`);
    $("retry").hidden = false;
    $("state").focus();
    return;
  }
  // The order was refused, so the next press is a new attempt.
  $("form").insertBefore($("pass-row"), $("refused"));
  keep(null);
  showForm(e.final);
}

/** Stores the token from its field; false if the text cannot be a token. */
function takePass() {
  const pass = $("pass").value.trim();
  if (pass && !sendable(pass)) return false;
  if (pass) sessionStorage.setItem(TOKEN, pass);
  return true;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (attempt) return;
  if (!takePass()) return showForm("An access token contains no spaces or special characters.");
  $("buy").disabled = true;
  keep({ key: newKey(), user: $("user").value, quantity: Number($("quantity").value) });
  run();
});

$("retry").addEventListener("click", () => {
  if (takePass()) run();
});

$("again").addEventListener("click", () => {
  const { user } = attempt;
  keep(null);
  firstPlace = 0;
  $("slip").hidden = true;
  $("again").hidden = true;
  showForm();
  $("user").value = user;
  $("quantity").focus();
});

takeToken();
$("item").textContent = item;
document.title = `Buy ${item}`;
showLeft();
if (attempt) run();
else showForm();
