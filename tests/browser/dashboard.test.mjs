// The live page, at the real feed of a real sale.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ADMIN_KEY, TestServer, fitsItsWidth, isAccessible, launch, leave, says, shoot, visit } from "./test_server.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const HALLS = { hall_A: 500, hall_B: 250, ticket_001: 1 };
const buyer = (n) => ({ user_id: `buyer ${n}`, item_id: Object.keys(HALLS)[n % 3], quantity: 1 + (n % 2) });
const bar = (item) => `[data-item="${item}"] .bar`;
const live = (page) => says(page, "#pulse-text", "^Live$");
/** Chromium logs this for every error response. */
const REFUSED = { faults: [/Failed to load resource/] };

async function becomeAdmin(page) {
  await page.getByRole("button", { name: "Admin" }).click();
  await page.getByLabel("Admin key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Leave admin" }).waitFor();
}

test("the page shows a sale while it runs and at its end", async (t) => {
  const server = await TestServer.start(t, { items: HALLS });
  const page = await visit(browser, server, "/", { colorScheme: "light" });
  await live(page);
  await page.evaluate(() => {
    window.seen = new Set();
    new MutationObserver(() => window.seen.add(document.querySelector("#rate-decided .figure").textContent))
      .observe(document.getElementById("rate-decided"), { subtree: true, childList: true, characterData: true });
  });
  // Orders arrive for some seconds, so that the plots have data.
  for (let n = 0; n < 8; n += 1) {
    await server.rush(500, (m) => buyer(500 * n + m));
    await page.waitForTimeout(400);
    if (n === 5) await shoot(page, "board-light");
  }
  for (const [item, stock] of Object.entries(HALLS)) {
    const words = `${stock} sold, 0 held, 0 free, of ${stock}`;
    await page.waitForFunction(([at, words]) => document.querySelector(at)?.ariaLabel === words, [bar(item), words]);
    const width = await page.$eval(`${bar(item)} .sold`, (sold) => sold.style.width);
    assert.equal(width, "100%");
    await says(page, `[data-item="${item}"] .chip`, "sold out");
  }
  await says(page, "#sold-units", "^751$");
  await says(page, "#of-units", "^of 751$");
  await says(page, "#rate-accepted .total", "^4,000 orders in total$");
  await says(page, "#rate-decided .total", "^4,000 orders in total$");
  await says(page, "#oversold", "^0$");
  await says(page, "#stranded", "^0$");
  await says(page, "#verdict-words", "Every unit is accounted for");
  await says(page, "#workers-count", "^1$");
  await says(page, "#reasons", "sold out");
  assert.ok(await page.evaluate(() => window.seen.size) > 1, "the figures moved");
  assert.equal(await page.locator("#decisions tr").count(), 12);
  const drawn = await page.$$eval("canvas", (all) => all.map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value !== 0);
  }));
  assert.deepEqual(drawn, Array(6).fill(true), "each plot shows something");
  await says(page, "#said", "sold out");
  await page.getByText("The plots as a table").click();
  await page.locator("#numbers-body tr").first().waitFor();
  await leave(page);
});

test("the page is accessible in light and dark, and fits telephones and walls", async (t) => {
  const server = await TestServer.start(t, { items: { ...HALLS, ["x".repeat(128)]: 10 } });
  await server.rush(900, buyer);
  const phone = { isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
  const views = [
    ["board-dark", "/", { colorScheme: "dark" }],
    ["board-light-after", "/", { colorScheme: "light" }],
    ["board-phone", "/", { ...phone, viewport: { width: 375, height: 812 } }],
    ["board-small-phone", "/", { ...phone, viewport: { width: 320, height: 568 }, colorScheme: "dark" }],
    ["board-wall", "/?wall", { viewport: { width: 1920, height: 1080 }, colorScheme: "dark" }],
  ];
  for (const [name, path, options] of views) {
    const page = await visit(browser, server, path, { reducedMotion: "reduce", ...options });
    await live(page);
    await says(page, '[data-item="hall_A"] .chip', "open|sold out");
    await isAccessible(page, name);
    await fitsItsWidth(page);
    await shoot(page, name);
    if (name === "board-wall") {
      const [content, height] = await page.evaluate(() => [document.documentElement.scrollHeight, innerHeight]);
      assert.ok(content <= height, `a wall is one screen: ${content} px in ${height}`);
    }
    await leave(page);
  }
});

test("the admin restocks, closes and opens, and is asked before", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 5 } });
  await server.rush(8, (n) => ({ user_id: `u${n}`, item_id: "hall_A" }));
  const page = await visit(browser, server, "/");
  await says(page, '[data-item="hall_A"] .chip', "sold out");
  assert.equal(await page.getByRole("button", { name: /stock of/i }).count(), 0, "not without the key");
  await page.getByRole("button", { name: "Admin" }).click();
  await page.getByLabel("Admin key").fill("a-guess");
  await page.keyboard.press("Enter");
  await says(page, "#key-wrong", "not the admin key");
  await isAccessible(page, "the key dialog");
  await page.keyboard.press("Escape");
  await becomeAdmin(page);
  await isAccessible(page, "as admin");
  await shoot(page, "board-admin");

  await page.getByRole("button", { name: "Set the stock of hall_A" }).click();
  await isAccessible(page, "the stock dialog");
  await page.getByLabel("Stock, in units").fill("7");
  await page.getByRole("button", { name: "Set the stock", exact: true }).click();
  await says(page, '[data-item="hall_A"] .counts', "5 sold, 0 held, 2 free, of 7");
  await page.getByRole("button", { name: "Set the stock of hall_A" }).click();
  await page.getByLabel("Stock, in units").fill("1");
  await page.getByRole("button", { name: "Set the stock", exact: true }).click();
  await says(page, "#toast", "5 units are held or sold");

  await page.getByRole("button", { name: "Close the sale of hall_A" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await server.ask("GET", "/items/hall_A")).status, "open");
  await page.getByRole("button", { name: "Close the sale of hall_A" }).click();
  await page.getByRole("button", { name: "Close it" }).click();
  await says(page, '[data-item="hall_A"] .chip', "closed");
  assert.equal((await server.ask("GET", "/items/hall_A")).status, "closed");
  await page.getByRole("button", { name: "Open the sale of hall_A" }).click();
  await page.getByRole("button", { name: "Open it" }).click();
  await says(page, '[data-item="hall_A"] .chip', "open");

  await page.reload();
  await page.getByRole("button", { name: "Leave admin" }).click();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0, "the key is gone");
  assert.equal(await page.getByRole("button", { name: /stock of/i }).count(), 0);
  await leave(page, REFUSED);
});

test("dead letters are shown with their reasons, sent again and dropped", async (t) => {
  const server = await TestServer.start(t, { workers: 0, items: { hall_A: 5 } });
  await server.rush(3, (n) => ({ user_id: `u${n}`, item_id: "hall_A" }));
  await server.end();
  server.tamper("UPDATE orders SET quantity = 500");
  await server.start(4);
  const page = await visit(browser, server, "/");
  await says(page, "#letters-note", "3 orders wait");
  assert.equal(await page.locator("#letter-list .reason", { hasText: "quantity must be" }).count(), 3);
  await becomeAdmin(page);
  await isAccessible(page, "with dead letters");
  await shoot(page, "board-letters");
  await page.getByRole("button", { name: /Send again: order/ }).first().click();
  await page.getByRole("button", { name: "Send again", exact: true }).last().click();
  await says(page, "#toast", "stayed .*quantity must be");
  await page.getByRole("button", { name: /Drop order/ }).first().click();
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await server.ask("GET", "/dead-letters")).dead_letters.length, 3);
  await page.getByRole("button", { name: /Drop order/ }).first().click();
  await page.getByRole("button", { name: "Drop for good" }).click();
  await says(page, "#letters-note", "2 orders wait");
  await page.getByRole("button", { name: "Drop all" }).click();
  await page.getByRole("button", { name: "Drop for good" }).click();
  await says(page, "#no-letters", "Empty");
  await page.locator("#no-letters").waitFor();
  assert.equal((await server.ask("GET", "/dead-letters")).dead_letters.length, 0);
  await leave(page);
});

test("everything can be done from the keyboard", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 5 } });
  const page = await visit(browser, server, "/");
  await live(page);
  const focus = () => page.evaluate(() => document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.textContent);
  const tabTo = async (what) => {
    for (let n = 0; n < 40; n += 1) {
      if (await focus() === what) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`no way to ${what}; the focus is on ${await focus()}`);
  };
  await page.keyboard.press("Tab");
  assert.match(await focus(), /Skip to the items/);
  await page.keyboard.press("Enter");
  assert.equal(await focus(), "items");
  await page.reload();
  await live(page);
  await tabTo("window-1");
  await page.keyboard.press("ArrowRight");
  assert.ok(await page.isChecked("#window-5"));
  await tabTo("admin");
  await page.keyboard.press("Enter");
  await page.keyboard.type(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await says(page, "#admin", "Leave admin");
  assert.equal(await focus(), "admin", "the focus is where it was");
  await page.getByRole("button", { name: "Set the stock of hall_A" }).waitFor();
  await tabTo("Set the stock of hall_A");
  await page.keyboard.press("Enter");
  await page.keyboard.type("8");
  await page.keyboard.press("Enter");
  await says(page, '[data-item="hall_A"] .counts', "of 8");
  await tabTo("Close the sale of hall_A");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  assert.equal((await server.ask("GET", "/items/hall_A")).status, "open", "Escape does nothing");
  assert.equal(await focus(), "Close the sale of hall_A");
  await leave(page);
});

test("names that are markup are shown as they are", async (t) => {
  const names = ["<script>window.hit = 1</script>", "<img src=x onerror=window.hit=1>", "\"><b>&amp;", "李小龍"];
  const server = await TestServer.start(t, { items: { "a:b": 9 } });
  await server.rush(names.length, (n) => ({ user_id: names[n], item_id: "a:b" }), 1);
  const page = await visit(browser, server, "/");
  for (const name of names) await page.getByText(name, { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => window.hit), undefined);
  assert.equal(await page.locator("#decisions :is(script, img, b)").count(), 0);
  await leave(page);
  const buyer = await visit(browser, server, "/buy/a:b");
  await buyer.getByLabel("Your name").fill(names[0]);
  await buyer.getByRole("button", { name: "Buy" }).click();
  await buyer.locator("#slip-user", { hasText: names[0] }).waitFor();
  assert.equal(await buyer.evaluate(() => window.hit), undefined);
  await leave(buyer);
});

test("a stored name with line separators or bidi controls stops no page", async (t) => {
  const server = await TestServer.start(t, { workers: 0, items: { hall_A: 5 } });
  const bought = await server.ask("POST", "/buy", { user_id: "ann", item_id: "hall_A" });
  await server.rush(1, () => ({ user_id: "bob", item_id: "hall_A" }));
  await server.end();
  server.tamper("UPDATE orders SET user = user || char(0x2028, 0x2029, 0x202e)");
  await server.start(4);
  const page = await visit(browser, server, "/");
  await says(page, "#decisions", "ann[^]*bob|bob[^]*ann");
  await page.waitForTimeout(5_000);
  await live(page);
  assert.equal(await page.locator("#decisions td bdi").count(), 2, "names are isolated from what is around them");
  const events = await page.evaluate(async (id) => {
    const { readEvents } = await import("/assets/feed.js");
    const orders = [];
    await readEvents(await fetch(`/orders/${id}/events`), (name, order) => orders.push([name, order.user_id]));
    return orders;
  }, bought.order_id);
  assert.deepEqual(events.at(-1), ["order", "ann\u2028\u2029\u202e"]);
  await leave(page);
});

test("old data is marked, and the page reconnects by itself", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 5 } });
  const page = await visit(browser, server, "/");
  await live(page);
  const { address } = server;
  await server.end();
  await says(page, "#pulse-text", "This data is \\d+ s old");
  await says(page, "#said", "The data is old");
  assert.equal(await page.getAttribute("#board", "data-state"), "stale");
  await shoot(page, "board-stale");
  await server.start(4, address);
  await live(page);
  await leave(page, { faults: [/net::ERR_/] });
});

test("unknown values and a broken promise are shown", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 5 } });
  const board = {
    at: "2026-11-25T00:00:00.000Z", at_ms: Date.now(), backend: "aws", uptime_s: 5, accepted: null, decided: null,
    sold: null, rejected: null, expired: null, rates: { accepted: null, decided: null, sold: null, rejected: null },
    rejected_by_reason: {}, backlog: { waiting: null, oldest_ms: null, dead_letters: null },
    decision_ms: { p50: null, p99: null }, ack_ms: { p50: null, p99: null }, workers: null,
    items: [{ item_id: "hall_A", stock: 5, free: 0, held: 0, sold: 6, status: "sold_out" }], items_more: true,
    last: [], dead_letters: [], oversold_units: 1, stranded_units: 0,
  };
  const events = (route) => route.fulfill({
    contentType: "text/event-stream",
    body: `event: history\ndata: {"points":[]}\n\nevent: board\ndata: ${JSON.stringify(board)}\n\n`,
  });
  const page = await visit(browser, server, "/", { routes: { "**/events": events } });
  for (const figure of ["#rate-sold .large", "#backlog .large", "#times .large", "#workers-count"]) {
    await says(page, figure, "unknown");
  }
  await says(page, "#verdict-words", "A promise is broken");
  await says(page, "#of-units", "of the items shown");
  await isAccessible(page, "broken");
  await leave(page);
});

test("unknown values are never shown as good", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 5 } });
  const unknown = { accepted: null, decided: null, sold: null, rejected: null };
  const board = {
    at: "2026-11-25T00:00:00.000Z", at_ms: Date.now(), backend: "aws", uptime_s: 5, expired: null, ...unknown,
    rates: unknown, rejected_by_reason: {}, backlog: { waiting: null, oldest_ms: null, dead_letters: null },
    decision_ms: { p50: null, p99: null }, ack_ms: { p50: null, p99: null }, workers: null, items_known: false,
    items: [], items_more: false, last: [], dead_letters: [], oversold_units: null, stranded_units: null,
  };
  const say = (text) => (route) => route.fulfill({ contentType: "text/event-stream", body: text });
  const silent = await visit(browser, server, "/", { routes: { "**/events": say(":\n\n") } });
  for (const list of ["#no-items", "#no-decisions", "#no-letters"]) await says(silent, list, "^Not known yet");
  await leave(silent);
  const told = say(`event: board\ndata: ${JSON.stringify(board)}\n\n`);
  const page = await visit(browser, server, "/", { routes: { "**/events": told } });
  for (const figure of ["#sold-units", "#rate-sold .large", "#oversold"]) await says(page, figure, "^unknown");
  await says(page, "#verdict-words", "Not known yet");
  await says(page, "#no-items", "^Not known yet");
  await says(page, "#no-letters", "^Not known yet");
  await shoot(page, "board-unknown");
  await isAccessible(page, "unknown");
  await leave(page);
});

test("without JavaScript the page says where the figures are", async (t) => {
  const server = await TestServer.start(t);
  const page = await visit(browser, server, "/", { javaScriptEnabled: false });
  assert.match(await page.innerText("body"), /needs JavaScript/);
  await leave(page);
});
