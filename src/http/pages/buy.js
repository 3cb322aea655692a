// Buys one item, once, and follows the order to its end.
//
// The attempt (its Idempotency-Key, what was asked for, the order's id once it is known) is kept in
// sessionStorage from before the first request until its end was seen: a reload, a second press or
// a lost answer is the same order.

import { at, bearer, detail, pause, readEvents, sendable, sleep, slot } from "./feed.js";

const $ = (id) => document.getElementById(id);
const item = decodeURIComponent(location.pathname.split("/").pop());
const SLOT = slot("buy.", item);
const TOKEN = slot("buy.", "token");
/** The longest that one request may take without a word. */
const SILENCE_MS = 40_000;
/** Attempts at a request before the page asks its reader whether to go on. */
const ATTEMPTS = 40;

let attempt = JSON.parse(sessionStorage.getItem(SLOT) ?? "null");
let firstPlace = 0;
let saidAt = 0;

function keep(next) {
  attempt = next;
  if (next) sessionStorage.setItem(SLOT, JSON.stringify(next));
  else sessionStorage.removeItem(SLOT);
}

/** A token may come in the fragment, which browsers send nowhere; it does not stay in the address. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
}
const token = () => sessionStorage.getItem(TOKEN) ?? "";

function newKey() {
  // crypto.randomUUID is there on https and localhost only.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A request that gives up when nothing is heard for long; `alive()` is a sign of life. */
function ask(path, options = {}) {
  const cut = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => cut.abort(), SILENCE_MS);
  };
  alive();
  const headers = { ...bearer(token()), ...options.headers };
  const asked = fetch(at(path), { cache: "no-store", ...options, headers, signal: cut.signal });
  return asked.then((answer) => ({ answer, alive, over: () => clearTimeout(timer) }));
}

// What is shown.

function show(state, title, words) {
  $("form").hidden = true;
  $("order").hidden = false;
  $("order").dataset.state = state;
  if ($("state").textContent !== title) $("state").textContent = title;
  $("words").textContent = words;
}

/** Said aloud at once when it matters, else now and then. */
function say(text, matters) {
  if (!matters && Date.now() - saidAt < 15_000) return;
  saidAt = Date.now();
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
    "Your order is safe. It is decided in the order in which orders came.");
  const known = typeof place === "number";
  $("line").hidden = false;
  $("place").textContent = known ? place.toLocaleString("en") : "unknown";
  $("wait").textContent = typeof wait === "number" ? duration(wait) : "unknown";
  if (known) {
    firstPlace = Math.max(firstPlace, place);
    $("progress").style.width = `${100 * (1 - (place - 1) / Math.max(firstPlace, 1))}%`;
    say(`Place in line: ${place.toLocaleString("en")}.`);
  }
  document.title = known ? `${place.toLocaleString("en")} in line – ${item}` : `In line – ${item}`;
}

const units = (n) => (n === 1 ? "one unit" : `${n} units`);

/** How an order ended: state of the page, title, words. */
function ending({ status, reason, quantity }) {
  if (status === "sold") return ["yes", "It is yours", `You bought ${units(quantity)} of ${item}.`];
  if (status === "expired") {
    return ["no", "Too late", "This order is older than the seller keeps orders. Nothing was sold."];
  }
  if (status === "dropped") {
    return ["no", "Dropped by the seller", "The seller has dropped this order. Nothing was sold to you."];
  }
  if (status === "dead_lettered") {
    return ["odd", "The seller has to look at it",
      "Your order is safe, but could not be decided. The seller can send it again; this page will tell you."];
  }
  const nothing = "Nothing was sold to you.";
  switch (reason) {
    case "sold_out": return ["no", "Sold out", `The last unit was gone before your turn came. ${nothing}`];
    case "not_enough":
      return ["no", "Not enough left", `Fewer than ${units(quantity)} were left at your turn. ${nothing} Fewer may still be had.`];
    case "user_limit": return ["no", "You have your share", `The seller allows each buyer only so many. ${nothing}`];
    case "not_open": return ["no", "Not open yet", `The sale had not begun when your turn came. ${nothing}`];
    case "closed": return ["no", "The sale is closed", `The seller has closed it. ${nothing}`];
    case "unknown_item": return ["no", "Not for sale", `The seller does not list ${item}. ${nothing}`];
    default: return ["no", "Not sold", `The order was rejected (${reason ?? status}). ${nothing}`];
  }
}

function showEnd(order) {
  const [state, title, words] = ending(order);
  const news = $("state").textContent !== title;
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
  if (news) $("state").focus();
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
    // It may be on sale again by the time the order is decided.
    $("buy").textContent = status === "open" ? "Buy" : "Try to buy anyway";
  } catch {
    // It is a courtesy; the order does not depend on it.
  }
}

// What is done.

/** Does `work(n)` until it returns something; in between says what is wrong, and waits. */
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
    const why = answer ? "Many are here at once." : "The connection is lost.";
    trouble(`${why} Trying again in ${seconds} s; nothing is lost.`);
    say(`${why} Trying again.`);
    await Promise.race([sleep(ms), new Promise((online) => addEventListener("online", online, { once: true }))]);
  }
}

/** Sends the order until it is known to be taken, or refused for good. */
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

/** Follows the order to its end, over events, and by asking where those are not to be had. */
async function follow(id) {
  let streams = true;
  for (;;) {
    // A server with no place to wait answers at once, and says when to ask again.
    let ms = 250;
    const order = await persist(async (refused) => {
      const { answer, alive, over } = await ask(`orders/${id}${streams ? "/events" : "?wait=20"}`);
      try {
        if (answer.status === 401 || answer.status === 403) throw { final: await detail(answer), token: true };
        if (answer.status === 404) throw { final: "This order cannot be seen here.", token: true };
        if (!answer.ok) {
          streams = false;
          return void refused(answer);
        }
        if (answer.headers.has("Retry-After")) ms = pause(0, answer);
        return await look(answer, streams, alive);
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

/** The last that an answer says of the order; what it says before is shown. */
async function look(answer, stream, alive) {
  let last = { status: "queued" };
  const seen = (order) => {
    trouble();
    last = order;
    if (order.status === "queued") showQueued(order);
  };
  if (stream) await readEvents(answer, (_, order) => seen(order), alive);
  else seen(await answer.json());
  return last;
}

async function run() {
  $("retry").hidden = true;
  $("slip").hidden = true;
  show("waiting", attempt.order ? "Looking for your order" : "Sending your order", "This takes a moment.");
  try {
    if (!attempt.order) {
      const order = await send();
      keep({ ...attempt, order });
      say("Your order is in line.", true);
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
    show("odd", "Not known yet", `${e.final} Your order, if it was taken, is safe.`);
    $("retry").hidden = false;
    $("state").focus();
    return;
  }
  // It was refused, so nothing was taken: the next press is another attempt.
  $("form").insertBefore($("pass-row"), $("refused"));
  keep(null);
  showForm(e.final);
}

/** Takes over what is in the token's field; false when that cannot be a token. */
function takePass() {
  const pass = $("pass").value.trim();
  if (pass && !sendable(pass)) return false;
  if (pass) sessionStorage.setItem(TOKEN, pass);
  return true;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (attempt) return;
  if (!takePass()) return showForm("An access token has no spaces or special letters in it.");
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
