// The dashboard: reads /events and shows the sale. Marks the data as old when events stop.

import { adminKey, setUpAdmin, showAdmin } from "./admin.js";
import { at, bearer, detail, pause, readEvents, sleep } from "./feed.js";
import { Plots } from "./plots.js";
import { $, clock, count, fillBar, keep, known, make, ms, plain, rate, span, write } from "./words.js";

/** Time without an event after which the data is old, and time without data after which the page reconnects. */
const STALE_MS = 3_500;
const SILENCE_MS = 35_000;
const POINTS_MAX = 300;
const DECISIONS_MAX = 12;

const plots = new Plots();
let heardAt;
let trouble = "";
let snapshot;
let feed = new AbortController();

// Plots.

function addPlot(parent, { id, title, figures, lines, text = count, before, least }) {
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  const values = figures.map(({ unit, label, colour }) => {
    const value = make("span", { textContent: "–" });
    const key = label ? [make("span", { className: "key label" }, make("i", { data: { colour } }), label)] : [];
    return { value, part: make("div", {}, ...key, make("p", { className: "large figure" }, value, unit ? make("small", { textContent: unit }) : "")) };
  });
  const total = make("p", { className: "total figure", textContent: "\u00a0" });
  const sheet = make("section", { className: "sheet plot", id },
    make("h3", { className: "label", textContent: title }),
    make("div", { className: "pair" }, ...values.map(({ part }) => part)), total,
    make("div", { className: "canvas" }, canvas));
  sheet.querySelectorAll("i[data-colour]").forEach((i) => i.style.setProperty("--colour", `var(${i.dataset.colour})`));
  parent.insertBefore(sheet, before ?? null);
  plots.add(canvas, lines, text).least = least;
  return { values: values.map(({ value }) => value), total, canvas, title };
}

const RATES = ["accepted", "decided", "sold", "rejected"];
const cards = Object.fromEntries(RATES.map((name) => [name, addPlot($("rates"), {
  id: `rate-${name}`,
  title: `Orders ${name}`,
  figures: [{ unit: "/s" }],
  lines: [{ of: (point) => point[`${name}_per_s`], colour: `--${name}` }],
  text: rate,
  least: 10,
})]));
const workers = $("depth").firstElementChild;
const backlog = addPlot($("depth"), {
  id: "backlog", title: "Waiting to be decided", before: workers, least: 10,
  figures: [{ unit: "orders" }],
  lines: [{ of: (point) => point.waiting, colour: "--accepted" }],
});
const times = addPlot($("depth"), {
  id: "times", title: "Time to decision", before: workers, text: ms, least: 10,
  figures: [{ label: "p50", colour: "--decided" }, { label: "p99", colour: "--held" }],
  lines: [{ of: (point) => point.p50_ms, colour: "--decided" }, { of: (point) => point.p99_ms, colour: "--held" }],
});

function writeFigure(element, text) {
  write(element, text);
  element.classList.toggle("soft", text === "unknown");
}

function showRates() {
  for (const name of RATES) {
    const card = cards[name];
    writeFigure(card.values[0], rate(snapshot.rates?.[name]));
    write(card.total, known(snapshot[name]) ? `${count(snapshot[name])} orders in total` : "total unknown");
    describe(card, `${card.title} per second`, (point) => point[`${name}_per_s`], rate);
  }
  const { waiting, oldest_ms: oldest } = snapshot.backlog ?? {};
  writeFigure(backlog.values[0], count(waiting));
  write(backlog.total, waiting === 0 ? "none waiting" : `oldest: ${ms(oldest)}`);
  describe(backlog, backlog.title, (point) => point.waiting, count);
  writeFigure(times.values[0], ms(snapshot.decision_ms?.p50));
  writeFigure(times.values[1], ms(snapshot.decision_ms?.p99));
  const { p50, p99 } = snapshot.ack_ms ?? {};
  write(times.total, known(p50) ? `202 after ${ms(p50)}, p99 ${ms(p99)}` : "time to the 202 unknown");
  describe(times, "Time to decision, p99", (point) => point.p99_ms, ms);
}

/** Describes a plot for screen readers. */
function describe(card, title, of, text) {
  const values = shown().map(of).filter(known);
  const words = values.length
    ? `now ${text(values.at(-1))}, maximum ${text(Math.max(...values))}, minimum ${text(Math.min(...values))}`
    : "unknown";
  card.canvas.setAttribute("aria-label", `${title}: ${words}`);
}

const shown = () => plots.points.filter((point) => point.at_ms >= (plots.points.at(-1)?.at_ms ?? 0) - plots.span);

function showNumbers() {
  if (!$("numbers").open) return;
  const columns = [
    ["Time", (p) => clock(p.at_ms)], ["Accepted /s", (p) => rate(p.accepted_per_s)],
    ["Decided /s", (p) => rate(p.decided_per_s)], ["Sold /s", (p) => rate(p.sold_per_s)],
    ["Rejected /s", (p) => rate(p.rejected_per_s)], ["Waiting", (p) => count(p.waiting)],
    ["Oldest", (p) => ms(p.oldest_ms)], ["p50", (p) => ms(p.p50_ms)], ["p99", (p) => ms(p.p99_ms)],
  ];
  if (!$("numbers-head").children.length) {
    $("numbers-head").append(make("tr", {}, ...columns.map(([name]) => make("th", { scope: "col", textContent: name }))));
  }
  const every = plots.span / 12_000;
  const rows = shown().reverse().filter((_, n) => n % every === 0);
  keep($("numbers-body"), rows, (point) => point.at_ms,
    (point) => make("tr", {}, ...columns.map(([, text]) => make("td", { textContent: text(point) }))));
}

// The totals. These and the items count units; rates and their totals count orders.

/** Older servers do not send items_known, and send no items while they are unknown. */
const itemsKnown = () => snapshot.items_known ?? snapshot.items !== undefined;

function showSale() {
  const items = snapshot.items ?? [];
  const sum = (name) => items.reduce((all, item) => all + item[name], 0);
  const all = { stock: sum("stock"), sold: sum("sold"), held: sum("held"), free: sum("free") };
  const isKnown = itemsKnown();
  writeFigure($("sold-units"), isKnown ? count(all.sold) : "unknown");
  write($("of-units"), items.length ? `of ${count(all.stock)}${snapshot.items_more ? " of the items shown" : ""}` : "");
  fillBar($("sale-bar"), all);
  if (!isKnown) $("sale-bar").setAttribute("aria-label", "Not known yet");
  const parts = ["sold", "held", "free"].map((name) => ({ name, value: isKnown ? count(all[name]) : "unknown" }));
  keep($("sale-legend"), parts, ({ name }) => name,
    ({ name }) => make("li", {}, make("i", { className: name }), make("span", { className: "figure" })),
    (line, { name, value }) => write(line.lastElementChild, `${value} ${name}`));

  const { oversold_units: oversold, stranded_units: stranded } = snapshot;
  writeFigure($("oversold"), count(oversold));
  writeFigure($("stranded"), count(stranded));
  const unknown = !known(oversold) || !known(stranded);
  const state = unknown ? "wait" : oversold || stranded ? "bad" : "good";
  const words = { wait: "Not known yet", good: "Every unit is accounted for", bad: "A promise is broken: run flux audit" };
  if ($("verdict").dataset.state !== state) {
    $("verdict").dataset.state = state;
    write($("verdict-words"), words[state]);
    say(words[state]);
  }
}

function showWorkers() {
  const { workers } = snapshot;
  writeFigure($("workers-count"), workers ? count(workers.length) : "unknown");
  keep($("workers"), workers ?? [], (worker) => worker.id,
    () => make("tr", {}, make("td", { className: "cut" }), make("td", { className: "number" }), make("td", { className: "number soft" })),
    (row, { kind, host, pid, decided_per_s: decided, in_hand, age_ms, concurrency }) => {
      const silent = age_ms > 3_000 ? `, no heartbeat for ${ms(age_ms)}` : "";
      write(row.children[0], `${kind} ${pid} on ${host}${silent}`);
      row.children[0].title = `concurrency ${concurrency}`;
      write(row.children[1], known(decided) ? `${rate(decided)}/s` : "unknown");
      write(row.children[2], `${count(in_hand)} in flight`);
    });
}

// Items, decisions, dead letters.

function showItems() {
  const items = snapshot.items ?? [];
  $("no-items").hidden = items.length > 0;
  write($("no-items"), itemsKnown() ? "No items are listed yet." : "Not known yet.");
  write($("items-note"), snapshot.items_more ? `the first ${items.length}; more are at /items` : "");
  const news = [];
  keep($("item-list"), items, (item) => item.item_id, makeItem, (line, item) => {
    const chip = line.querySelector(".chip");
    if (chip.dataset.state && chip.dataset.state !== item.status) news.push(`${item.item_id} is ${plain(item.status)}`);
    chip.dataset.state = item.status;
    write(chip, plain(item.status));
    fillBar(line.querySelector(".bar"), item);
    write(line.querySelector("b"), `${count(item.sold)} sold`);
    write(line.querySelector(".rest"), `, ${count(item.held)} held, ${count(item.free)} free, of ${count(item.stock)} units${item.unlisted ? "; unlisted" : ""}`);
    const sale = line.querySelector("[data-act=sale]");
    write(sale, item.status === "closed" ? "Open" : "Close");
    sale.setAttribute("aria-label", `${sale.textContent} the sale of ${item.item_id}`);
  });
  if (news.length) say(news.length > 3 ? `${news.length} items changed their state` : news.join(". "));
}

function makeItem({ item_id: id }) {
  const bar = make("div", { className: "bar" }, ...["sold", "held", "free"].map((name) => make("span", { className: name })));
  bar.setAttribute("role", "img");
  return make("li", { className: "item", data: { item: id } },
    make("h3", { textContent: id, title: id }), bar, make("span", { className: "chip" }),
    make("p", { className: "counts figure" }, make("b"), make("span", { className: "rest" })),
    make("p", { className: "acts for-admin" },
      make("button", { textContent: "Stock", data: { act: "stock" }, aria: { label: `Set the stock of ${id}` } }),
      make("button", { data: { act: "sale" } })));
}

function showDecisions() {
  const last = (snapshot.last ?? []).slice(0, DECISIONS_MAX);
  $("no-decisions").hidden = last.length > 0;
  write($("no-decisions"), snapshot.decided === 0 ? "No order is decided yet." : "No decisions received yet.");
  keep($("decisions"), last, (one) => one.order_id, (one) => {
    const state = one.reason ? plain(one.reason) : one.status;
    const chip = make("span", { className: "chip", textContent: state, data: { state: one.status } });
    const buyer = one.user_id ?? "";
    const units = one.quantity > 1 ? ` × ${one.quantity}` : "";
    return make("tr", { className: "new" },
      make("td", { textContent: clock(one.decided_at) }), make("td", {}, chip),
      make("td", { className: "cut", textContent: `${one.item_id}${units}`, title: one.item_id }),
      make("td", { className: "cut", title: buyer }, make("bdi", { textContent: buyer })));
  });
  const reasons = Object.entries(snapshot.rejected_by_reason ?? {}).sort((a, b) => b[1] - a[1]);
  write($("reasons"), reasons.map(([reason, n]) => `${plain(reason)} ${count(n)}`).join(" · "));
}

function showLetters() {
  const letters = snapshot.dead_letters ?? [];
  const all = snapshot.backlog?.dead_letters;
  $("letters").dataset.state = letters.length ? "some" : "none";
  $("no-letters").hidden = letters.length > 0 || known(all) && all > 0;
  const fine = known(snapshot.decided) && snapshot.decided > 0 ? "Empty: no order needs your attention." : "Empty.";
  write($("no-letters"), all === 0 ? fine : "Not known yet.");
  $("letter-list").hidden = letters.length === 0;
  $("letters-acts").hidden = letters.length === 0 || !adminKey();
  const some = known(all) && all > letters.length ? `${letters.length} of ${count(all)}` : count(letters.length);
  write($("letters-note"), letters.length ? `${some} ${all === 1 ? "order waits" : "orders wait"} to be redriven or dropped` : known(all) ? "" : "not known");
  keep($("letter-list"), letters, (letter) => letter.order_id, (letter) => {
    const id = letter.order_id;
    return make("li", { className: "letter", data: { order: id } },
      make("span", { className: "soft figure", textContent: clock(letter.at) }),
      make("span", { className: "mono", textContent: id }),
      make("bdi", { className: "reason", textContent: letter.reason }),
      make("div", { className: "acts for-admin" },
        make("button", { textContent: "Send again", data: { act: "redrive" }, aria: { label: `Send again: order ${id}` } }),
        make("button", { textContent: "Drop", data: { act: "drop" }, aria: { label: `Drop order ${id}` } })));
  });
}

// The feed and its state.

let announcements = [];
/** Announces changes to screen readers, at most once a second. */
function say(text) {
  announcements.push(text);
  if (announcements.length === 1) {
    setTimeout(() => {
      $("said").textContent = announcements.slice(-3).join(". ");
      announcements = [];
    }, 1_000);
  }
}

function showPulse() {
  const age = heardAt === undefined ? undefined : performance.now() - heardAt;
  const state = age === undefined ? "wait" : age < STALE_MS ? "live" : "stale";
  if ($("pulse").dataset.state !== state) {
    $("pulse").dataset.state = state;
    $("board").dataset.state = state;
    say({ live: "Live", stale: "The data is old: the connection is lost", wait: "" }[state]);
  }
  const old = state === "stale" ? `This data is ${span(Math.round(age / 1000))} old` : "";
  write($("pulse-text"), state === "live" ? "Live" : [old, trouble].filter(Boolean).join(" – ") || "Connecting");
}

function take(name, data) {
  if (name === "history") {
    plots.points = data.points;
    return;
  }
  if (name !== "board") return;
  snapshot = data;
  heardAt = performance.now();
  trouble = "";
  plots.hear(data.at_ms);
  const { rates, backlog, decision_ms: decision } = data;
  if ((plots.points.at(-1)?.at_ms ?? 0) < data.at_ms) {
    plots.points.push({
      at_ms: data.at_ms,
      ...Object.fromEntries(RATES.map((rate) => [`${rate}_per_s`, rates?.[rate]])),
      waiting: backlog?.waiting, oldest_ms: backlog?.oldest_ms, p50_ms: decision?.p50, p99_ms: decision?.p99,
    });
  }
  plots.points.splice(0, plots.points.length - POINTS_MAX);
  showAll();
}

function showAll() {
  write($("source"), `${snapshot.backend}, up for ${span(snapshot.uptime_s)}`);
  document.title = known(snapshot.sold) ? `${count(snapshot.sold)} orders sold – flux` : "flux";
  for (const show of [showSale, showRates, showWorkers, showItems, showDecisions, showLetters, showNumbers]) show();
  plots.draw();
  showPulse();
}

async function readFeed() {
  const mine = (feed = new AbortController());
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => mine.abort(), SILENCE_MS);
  };
  alive();
  try {
    const answer = await fetch(at("events"), { headers: bearer(adminKey()), cache: "no-store", signal: mine.signal });
    if (!answer.ok) {
      trouble = await detail(answer);
      return answer;
    }
    await readEvents(answer, take, alive);
    trouble = "the server ended the stream";
  } catch {
    trouble = "the connection is lost";
  } finally {
    clearTimeout(timer);
  }
}

async function follow() {
  for (let attempt = 0; ; attempt += 1) {
    const before = heardAt;
    const refused = await readFeed();
    if (heardAt !== before) attempt = 0;
    showPulse();
    const woken = new Promise((wake) => addEventListener("flux:reconnect", wake, { once: true }));
    await Promise.race([sleep(pause(attempt, refused)), woken]);
  }
}

/** Reconnects to the feed, because the key decides what it contains. */
function reconnect() {
  feed.abort();
  dispatchEvent(new Event("flux:reconnect"));
}

for (const radio of document.querySelectorAll("[name=window]")) {
  radio.addEventListener("change", () => {
    plots.span = Number(radio.value) * 1_000;
    if (snapshot) showAll();
  });
}
$("numbers").addEventListener("toggle", showNumbers);
if (new URLSearchParams(location.search).has("wall")) {
  document.body.classList.add("wall");
  $("wall").textContent = "Leave wall view";
  $("wall").href = location.pathname;
}
setUpAdmin(() => snapshot, () => {
  reconnect();
  if (snapshot) showAll();
});
showAdmin();
setInterval(showPulse, 500);
follow();
